/*
 * modes.c - real mode, virtual-8086 mode with and without CR4.VME, protected-mode virtual
 * interrupts, the I/O permission bitmap, and the way through every mode and back (SDM vol.
 * 3A, 9.8, 9.9, chapter 20; vol. 1, 18.5).
 */
#include "apic.h"

/* --- real mode --- */

/* ORDER REAL: real.S */
struct real {
    u32 gpr[8];
    u16 ip, cs, flags, ss, ds, es, fs, gs;
    u16 vec, handler_flags, es_limit_of, keep_es;
};

extern const char real_begin[], real_end[], real_regs[], real_stubs[];
void enter_real(void);

#define BLOB      0x10000u
#define CODE      0x20000u /* 16-bit snippets are copied here */
#define CODE_SEG  0x2000
#define DATA_SEG  0x3000
#define STACK_SEG 0x4000

static void real_setup(void)
{
    gdt[0x60 / 8] = make_desc(BLOB, 0xffff, ATTR_CODE);
    gdt[0x68 / 8] = make_desc(0, 0xffff, ATTR_DATA);
    memcpy((void *)BLOB, real_begin, (size_t)(real_end - real_begin));
    volatile u32 *ivt = (volatile u32 *)(word)cmdline_number("none", 0);
    for (unsigned v = 0; v < 256; v++)
        ivt[v] = (BLOB / 16) << 16 | (u32)(real_stubs - real_begin + 8 * v);
}

static void place(const struct snip *s)
{
    memcpy((void *)CODE, (void *)s->start, s->end + 2 - s->start);
}

static void real_init(struct real *r, const struct snip *s)
{
    memset(r, 0, sizeof(*r));
    place(s);
    r->cs = CODE_SEG;
    r->ds = r->es = r->fs = r->gs = DATA_SEG;
    r->ss = STACK_SEG;
    r->gpr[SP] = 0x1000;
    r->flags = FL_ONE;
    r->es_limit_of = 0x68;
}

static void run_real(struct real *r)
{
    struct real *at = (struct real *)(BLOB + (u32)(real_regs - real_begin));
    *at = *r;
    enter_real();
    *r = *at;
}

#define SNIP16(name, setup, insn) SNIP_BITS(name, "16", setup, insn)
SNIP16(r_nop, "", "nop");
SNIP16(r_div, "xor %cx, %cx", "div %cx");
SNIP16(r_ud, "", "ud2");
SNIP16(r_int, "", "int $0x42");
SNIP16(r_word_end, "", "mov 0xffff, %ax");
SNIP16(r_word_last, "movw $0x7788, 0xfffe", "mov 0xfffe, %ax");
SNIP16(r_dword_end, "", "mov 0xfffd, %eax");
SNIP16(r_stack_end, "mov $1, %sp", "push %ax");
SNIP16(r_stack_wrap, "mov $0, %sp", "push %ax");
SNIP16(r_addr32, "mov $0x10000, %ebx", "addr32 mov (%ebx), %al");
SNIP16(r_unreal, "mov $0x800000, %ebx", "mov %es:(%ebx), %eax");
SNIP16(r_verr, "", "verr %ax");
SNIP16(r_lldt, "", "lldt %ax");
SNIP16(r_arpl, "", ".byte 0x63, 0xc0");
SNIP16(r_sgdt, "", "sgdt 0");
SNIP16(r_pe, "mov %cr0, %eax; mov %eax, %ebx; or $1, %al; mov %eax, %cr0; mov $0x99, %cx",
       "mov %ebx, %cr0");
SNIP16(r_seg, "mov $0x1234, %ax; mov %ax, %ds; movw $0x5566, 0x10; mov $0x1235, %ax; mov %ax, %es",
       "mov %es:0, %dx");
SNIP16(r_high, "mov $0xffff, %ax; mov %ax, %ds", "mov 0x10, %eax");
SNIP16(r_spin, "", "1: jmp 1b");
SNIP16(r_hlt, "sti", "hlt; nop");
SNIP16(r_bound, "movw $1, 0; movw $3, 2; mov $4, %ax", "bound %ax, 0");
SNIP16(r_far, "pushw %cs; pushw $2f - 991b; ", "lret; 2: nop");
SNIP16(r_popfd, "pushl $0x240002", "popfl; pushfl; pop %edx");
SNIP16(r_aam, "", ".byte 0xd4, 0");

static void real_case(const char *name, const struct snip *s, unsigned vec)
{
    struct real r;
    real_init(&r, s);
    run_real(&r);
    u16 want = (u16)((vec == VEC_DONE ? s->end + 2 : s->at) - s->start);
    ok(r.vec == vec && r.ip == want && r.cs == CODE_SEG,
       "real mode, %s: vector %u at %x, want %u at %x", name, r.vec, r.ip, vec, want);
}

static void test_real(void)
{
    struct real r;
    real_setup();
    real_case("NOP", &r_nop, VEC_DONE);
    real_case("DIV by zero", &r_div, DE);
    real_case("AAM by zero", &r_aam, DE);
    real_case("UD2", &r_ud, UD);
    real_case("BOUND", &r_bound, BR);
    real_case("word across the segment's end", &r_word_end, GP);
    real_case("last word of a segment", &r_word_last, VEC_DONE);
    real_case("doubleword across the end", &r_dword_end, GP);
    real_case("32-bit address above FFFF", &r_addr32, GP);
    real_case("PUSH with SP = 0", &r_stack_wrap, VEC_DONE);
    real_case("VERR", &r_verr, UD);
    real_case("LLDT", &r_lldt, UD);
    real_case("ARPL", &r_arpl, UD);
    real_case("SGDT", &r_sgdt, VEC_DONE);
    real_case("LRET", &r_far, VEC_DONE);

    real_init(&r, &r_int);
    r.flags |= FL_IF | FL_DF;
    run_real(&r);
    ok(r.vec == 0x42 && r.ip == r_int.end - r_int.start && r.flags == (FL_ONE | FL_IF | FL_DF) &&
           !(r.handler_flags & FL_IF) && r.handler_flags & FL_DF,
       "real mode, INT n: vector %x flags %x, in the handler %x", r.vec, r.flags, r.handler_flags);
    real_init(&r, &r_seg);
    run_real(&r);
    expect("real mode: segments overlap", (u16)r.gpr[DX], 0x5566);
    real_init(&r, &r_high);
    run_real(&r);
    expect("real mode: FFFF:10 is 100000h", r.gpr[AX], *(volatile u32 *)0x100000);
    real_init(&r, &r_unreal);
    run_real(&r);
    expect("real mode: 64 KiB limit", r.vec, GP);
    real_init(&r, &r_unreal);
    r.es_limit_of = SEL_DATA0;
    r.keep_es = 1;
    *(volatile u32 *)0x800000 = 0x600df00d;
    run_real(&r);
    ok(r.vec == VEC_DONE && r.gpr[AX] == 0x600df00d, "big real mode: a limit of 4 GiB stays: %u",
       r.vec);
    real_init(&r, &r_pe);
    run_real(&r);
    ok(r.vec == VEC_DONE && (u16)r.gpr[CX] == 0x99, "CR0.PE on and off without a jump: %u", r.vec);
    real_init(&r, &r_popfd);
    run_real(&r);
    expect("POPFD in real mode: AC and ID", r.gpr[DX] & 0x240000, 0x240000);
    real_init(&r, &r_nop);
    r.flags |= FL_TF;
    run_real(&r);
    ok(r.vec == DB && r.ip == 1 && !(r.handler_flags & FL_TF), "real mode, single step: %u", r.vec);
}

static void test_real_interrupts(void)
{
    struct real r;
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_LINT0, 0x700);
    pic_setup(1);
    pit_start(0, 3000);
    real_init(&r, &r_spin);
    r.flags |= FL_IF;
    run_real(&r);
    ok(r.vec == 0x20 && r.ip == r_spin.at - r_spin.start, "IRQ 0 in real mode: %x", r.vec);
    pic_eoi(0);
    pit_start(0, 3000);
    real_init(&r, &r_hlt);
    run_real(&r);
    ok(r.vec == 0x20 && r.ip == r_hlt.at + 1 - r_hlt.start, "HLT in real mode: %x at %x", r.vec,
       r.ip);
    pic_eoi(0);
    pic_setup(0);
}

/* --- virtual-8086 mode --- */

SNIP16(v_cli, "", "cli");
SNIP16(v_sti, "", "sti");
SNIP16(v_pushf, "", "pushf");
SNIP16(v_pushfd, "", "pushfl");
SNIP16(v_popf, "pushw $0x7202", "popf");
SNIP16(v_popf_cli, "pushw $0x0002", "popf");
SNIP16(v_popf_tf, "pushw $0x0102", "popf");
SNIP16(v_int, "", "int $0x42");
SNIP16(v_int3, "", "int3");
SNIP16(v_into, "mov $0x7f, %al; inc %al", "into");
SNIP16(v_iret, "pushw $0x0202; pushw %cs; call 3f; 3: pop %ax; add $4f - 3b, %ax; push %ax",
       "iret; 4: nop");
SNIP16(v_hlt, "", "hlt");
SNIP16(v_lgdt, "", "lgdt 0");
SNIP16(v_cr0, "", "mov %cr0, %eax");
SNIP16(v_lar, "", "lar %ax, %ax");
SNIP16(v_str, "", "str %ax");
SNIP16(v_smsw, "", "smsw %ax");
SNIP16(v_in, "", "in $0x80, %al");
SNIP16(v_inw, "", "in $0x8f, %ax");
SNIP16(v_out, "", "out %al, $0x80");
SNIP16(v_mov_es, "mov $0x1234, %ax", "mov %ax, %es");
SNIP16(v_limit, "", "mov 0xffff, %ax");
SNIP16(v_div, "xor %cx, %cx", "div %cx");
SNIP16(v_clts, "", "clts");

static void v86_init(struct ctx *c, const struct snip *s, unsigned iopl, word flags)
{
    ctx_init(c, NULL, 3);
    place(s);
    c->ip = 0;
    c->cs = CODE_SEG;
    c->ds = c->es = c->fs = c->gs = DATA_SEG;
    c->ss = STACK_SEG;
    c->gpr[SP] = 0x1000;
    c->flags = FL_ONE | FL_VM | iopl << 12 | flags;
}

static void v86_case(const char *name, const struct snip *s, unsigned iopl, unsigned vec, u32 err)
{
    struct ctx c;
    v86_init(&c, s, iopl, 0);
    run(&c);
    word at = vec == GP || vec == UD || vec == DE ? s->at : vec == VEC_DONE ? s->end + 2 : s->end;
    if (vec == VEC_DONE && iopl < 3) { /* INT 81h itself is not allowed: that is the end, too */
        vec = GP;
        at = s->end;
    }
    ok(c.vec == vec && c.ip == at - s->start && c.flags & FL_VM && (!c.has_err || c.err == err),
       "V86, IOPL %u, %s: vector %lu %lx at %lx", iopl, name, c.vec, c.err, c.ip);
}

static void test_v86(void)
{
    static const struct {
        const char *name;
        const struct snip *s;
        u8 at3, at0; /* vector with IOPL 3 and 0 */
    } cases[] = {
        {"CLI", &v_cli, VEC_DONE, GP},
        {"STI", &v_sti, VEC_DONE, GP},
        {"PUSHF", &v_pushf, VEC_DONE, GP},
        {"PUSHFD", &v_pushfd, VEC_DONE, GP},
        {"POPF", &v_popf_cli, VEC_DONE, GP},
        {"INT n", &v_int, 0x42, GP},
        {"INT3", &v_int3, BP_, BP_},
        {"INTO", &v_into, OF, OF},
        {"IRET", &v_iret, VEC_DONE, GP},
        {"HLT", &v_hlt, GP, GP},
        {"LGDT", &v_lgdt, GP, GP},
        {"MOV from CR0", &v_cr0, GP, GP},
        {"CLTS", &v_clts, GP, GP},
        {"LAR", &v_lar, UD, UD},
        {"STR", &v_str, UD, UD},
        {"SMSW", &v_smsw, VEC_DONE, VEC_DONE},
        {"IN, port denied", &v_in, GP, GP},
        {"OUT, port denied", &v_out, GP, GP},
        {"MOV to ES", &v_mov_es, VEC_DONE, VEC_DONE},
        {"limit", &v_limit, GP, GP},
        {"DIV by zero", &v_div, DE, DE},
    };
    u32 err42 = 0;
    for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
        v86_case(cases[n].name, cases[n].s, 3, cases[n].at3, err42);
        v86_case(cases[n].name, cases[n].s, 0, cases[n].at0, 0);
    }
    tss.bitmap[0x80 / 8] = 0;
    tss.bitmap[0x81 / 8] = 0;
    v86_case("IN, port allowed", &v_in, 0, VEC_DONE, 0);
    v86_case("OUT, port allowed", &v_out, 3, VEC_DONE, 0);
    v86_case("IN of a word, half denied", &v_inw, 3, GP, 0);
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));

    struct ctx c;
    v86_init(&c, &v_int, 3, FL_IF);
    run(&c);
    expect("V86: nine words on the kernel's stack", c.frame, (word)kernel_stack_top - 36);
    ok(c.ss == STACK_SEG && c.gpr[SP] == 0x1000 && c.ds == DATA_SEG && c.gs == DATA_SEG,
       "V86: segments in the frame: SS %lx DS %lx", c.ss, c.ds);
    ok(c.flags & FL_IF, "V86: IF in the frame");

    /* A handler must be of DPL 0 and not conforming: #GP(CS) otherwise (20.3.1.2). */
    gdt[0x70 / 8] = make_desc(0, 0xfffff, 0xc09f);
    word stub = (idt[0x42 * 2] & 0xffff) | (idt[0x42 * 2 + 1] & 0xffff0000);
    set_gate(0x42, 0x70, stub, GATE_INT, 3, 0);
    v86_init(&c, &v_int, 3, 0);
    run(&c);
    ok(c.vec == GP && c.err == 0x70, "V86: conforming handler: %lu %lx", c.vec, c.err);
    set_gate(0x42, SEL_CODE0, stub, GATE_INT, 0, 0);
    v86_init(&c, &v_int, 3, 0);
    run(&c);
    ok(c.vec == GP && c.err == 0x42 * 8 + 2, "V86: gate of DPL 0: %lu %lx", c.vec, c.err);
    reset_gate(0x42);
}

static volatile unsigned ticks;

static void on_tick(struct frame *f)
{
    ticks = ticks + 1;
    pic_eoi(0);
}

SNIP16(v_count, "mov $3000000, %ecx", "1: dec %ecx; jnz 1b");

static void test_v86_interrupt(void)
{
    struct ctx c;
    handler[0x20] = on_tick;
    pic_setup(1);
    pit_start(2, 2000);
    for (unsigned n = 0; n < 300 && !ticks; n++) {
        v86_init(&c, &v_count, 3, FL_IF);
        run(&c);
    }
    pit_start(0, 0xffff);
    ok(c.vec == VEC_DONE && ticks && (u32)c.gpr[CX] == 0,
       "V86 is interrupted and goes on: %u times", ticks);
    pic_setup(0);
    handler[0x20] = NULL;
}

/* --- CR4.VME (20.3) --- */

/* Runs in V86 mode with IOPL 0 and VME; interrupts in `to_v86` go to the machine's own IVT. */
static void vme_run(struct ctx *c, const struct snip *s, unsigned iopl, word flags, bool to_v86)
{
    memset(tss.redirect, to_v86 ? 0 : 0xff, sizeof(tss.redirect));
    tss.redirect[VEC_DONE / 8] = 0xff;
    write_cr4(read_cr4() | CR4_VME);
    v86_init(c, s, iopl, flags);
    run(c);
    write_cr4(read_cr4() & ~(word)CR4_VME);
}

/* Where the snippet's closing INT 81h ends with IOPL 0: #GP. */
static bool vme_done(const struct ctx *c, const struct snip *s)
{
    return c->vec == GP && c->err == 0 && c->ip == s->end - s->start;
}

static void test_vme(void)
{
    struct ctx c;
    if (!cpu_has(1, 3, 1)) {
        skip("VME", "not offered");
        return;
    }
    vme_run(&c, &v_cli, 0, FL_VIF | FL_IF, false);
    ok(vme_done(&c, &v_cli) && !(c.flags & FL_VIF) && c.flags & FL_IF,
       "VME: CLI clears VIF: %lu %lx", c.vec, c.flags);
    vme_run(&c, &v_sti, 0, 0, false);
    ok(vme_done(&c, &v_sti) && c.flags & FL_VIF && !(c.flags & FL_IF), "VME: STI sets VIF: %lx",
       c.flags);
    vme_run(&c, &v_sti, 0, FL_VIP, false);
    ok(c.vec == GP && c.ip == v_sti.at - v_sti.start && !(c.flags & FL_VIF),
       "VME: STI with VIP: #GP");
    vme_run(&c, &v_pushf, 0, FL_VIF, false);
    u16 pushed = *(volatile u16 *)(STACK_SEG * 16 + 0xffe);
    ok(vme_done(&c, &v_pushf) && (pushed & (FL_IOPL | FL_IF)) == (FL_IOPL | FL_IF),
       "VME: PUSHF shows VIF as IF, IOPL as 3: %x", pushed);
    vme_run(&c, &v_pushf, 0, FL_IF, false);
    pushed = *(volatile u16 *)(STACK_SEG * 16 + 0xffe);
    ok(!(pushed & FL_IF), "VME: and not IF: %x", pushed);
    vme_run(&c, &v_popf, 0, 0, false);
    ok(vme_done(&c, &v_popf) && c.flags & FL_VIF && !(c.flags & (FL_IF | FL_IOPL)),
       "VME: POPF sets VIF: %lx", c.flags);
    vme_run(&c, &v_popf_cli, 0, FL_VIF | FL_IF, false);
    ok(vme_done(&c, &v_popf_cli) && !(c.flags & FL_VIF) && c.flags & FL_IF,
       "VME: POPF clears VIF: %lx", c.flags);
    vme_run(&c, &v_popf, 0, FL_VIP, false);
    ok(c.vec == GP && c.ip == v_popf.at - v_popf.start, "VME: POPF that sets VIF with VIP: #GP");
    vme_run(&c, &v_popf_tf, 0, 0, false);
    ok(c.vec == GP && c.ip == v_popf_tf.at - v_popf_tf.start, "VME: POPF that sets TF: #GP");
    vme_run(&c, &v_pushfd, 0, 0, false);
    ok(c.vec == GP && c.ip == v_pushfd.at - v_pushfd.start, "VME: PUSHFD is still #GP");
    vme_run(&c, &v_iret, 0, 0, false);
    ok(vme_done(&c, &v_iret) && c.flags & FL_VIF, "VME: IRET sets VIF: %lu at %lx %lx", c.vec, c.ip,
       c.flags);

    /* INT n through the machine's IVT: the stub there is real mode's, and its first act is a PUSH.
     */
    volatile u32 *ivt = (volatile u32 *)(word)cmdline_number("none", 0);
    u32 old = ivt[0x42];
    *(volatile u16 *)(CODE + 0x800) = 0xf4f4; /* HLT: #GP there */
    ivt[0x42] = CODE_SEG << 16 | 0x800;
    vme_run(&c, &v_int, 0, FL_VIF | FL_IF, true);
    volatile u16 *st = (volatile u16 *)(STACK_SEG * 16 + 0xffa);
    ok(c.vec == GP && c.ip == 0x800 && c.gpr[SP] == 0xffa && !(c.flags & FL_VIF) && c.flags & FL_IF,
       "VME: INT n redirected: %lu at %lx", c.vec, c.ip);
    ok(st[0] == v_int.end - v_int.start && st[1] == CODE_SEG &&
           (st[2] & (FL_IF | FL_IOPL)) == (FL_IF | FL_IOPL),
       "VME: its frame: %x %x %x", st[0], st[1], st[2]);
    vme_run(&c, &v_int, 0, 0, false);
    ok(c.vec == GP && c.ip == v_int.at - v_int.start, "VME: INT n not redirected, IOPL 0: #GP");
    vme_run(&c, &v_int, 3, FL_IF, true);
    ok(c.vec == GP && c.ip == 0x800 && !(c.flags & FL_IF),
       "VME: INT n redirected, IOPL 3: IF is cleared");
    vme_run(&c, &v_int, 3, 0, false);
    ok(c.vec == 0x42, "VME: INT n not redirected, IOPL 3: to the monitor");
    vme_run(&c, &v_int3, 0, 0, true);
    ok(c.vec == BP_, "VME: INT3 is never redirected: %lu", c.vec);
    ivt[0x42] = old;
}

/* --- CR4.PVI (20.4) --- */

SNIP(p_cli, "", "cli");
SNIP(p_sti, "", "sti");
SNIP(p_popf, "pushl $0x202", "popf");

static void pvi_run(struct ctx *c, const struct snip *s, word flags)
{
    write_cr4(read_cr4() | CR4_PVI);
    ctx_init(c, s, 3);
    c->flags = FL_ONE | flags;
    run(c);
    write_cr4(read_cr4() & ~(word)CR4_PVI);
}

static void test_pvi(void)
{
    struct ctx c;
    pvi_run(&c, &p_cli, FL_VIF | FL_IF);
    ok(c.vec == VEC_DONE && !(c.flags & FL_VIF) && c.flags & FL_IF, "PVI: CLI: %lu %lx", c.vec,
       c.flags);
    pvi_run(&c, &p_sti, 0);
    ok(c.vec == VEC_DONE && c.flags & FL_VIF && !(c.flags & FL_IF), "PVI: STI: %lu %lx", c.vec,
       c.flags);
    pvi_run(&c, &p_sti, FL_VIP);
    ok(c.vec == GP && c.err == 0 && c.ip == p_sti.at, "PVI: STI with VIP: %lu", c.vec);
    pvi_run(&c, &p_popf, 0);
    ok(c.vec == VEC_DONE && !(c.flags & (FL_VIF | FL_IF)), "PVI: POPF changes neither: %lx",
       c.flags);
}

/* --- I/O permission bitmap (vol. 1, 18.5.2) --- */

SNIP(io_b, "", "inb %dx, %al");
SNIP(io_w, "", "inw %dx, %ax");
SNIP(io_l, "", "inl %dx, %eax");

static void io(const char *name, const struct snip *s, u16 port, bool allowed)
{
    struct ctx c;
    ctx_init(&c, s, 3);
    c.gpr[DX] = port;
    run(&c);
    ok(allowed ? c.vec == VEC_DONE : c.vec == GP && c.err == 0 && c.ip == s->at,
       "I/O bitmap: %s: %lu", name, c.vec);
}

static void test_bitmap(void)
{
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
    tss.bitmap[0x80 / 8] = 0xfe;
    tss.bitmap[0x88 / 8] = 0x7f;
    tss.bitmap[0x90 / 8] = 0xfe;
    tss.bitmap[0x1000 / 8] = 0;
    tss.bitmap[0xfff8 / 8] = 0;
    io("byte allowed", &io_b, 0x80, true);
    io("next byte denied", &io_b, 0x81, false);
    io("word half denied", &io_w, 0x80, false);
    io("word across two bytes of the map", &io_w, 0x8f, true);
    io("doubleword, some denied", &io_l, 0x8f, false);
    io("doubleword allowed", &io_l, 0x1000, true);
    io("the last port", &io_b, 0xffff, true);
    gdt[SEL_TSS / 8] = make_desc((u32)&tss, offsetof(struct tss, bitmap) + 0x88 / 8, 0x89);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS) : "memory");
    io("within the limit", &io_b, 0x80, true);
    io("the second byte of the map is behind the limit", &io_b, 0x8f, false);
    io("behind the limit", &io_b, 0x1000, false);
    load_tr();
    tss.iomap = sizeof(tss);
    io("no map", &io_b, 0x80, false);
    tss.iomap = offsetof(struct tss, bitmap);
    memset(tss.bitmap, 0xff, sizeof(tss.bitmap));
}

/* --- to long mode and back (9.8.5) --- */

typedef u64 page_t[512] __attribute__((aligned(4096)));
static page_t pml4, pdpt;
u64 long_result, long_efer;

__asm__(".pushsection .text\n"
        ".globl long_trip\n"
        "long_trip: push %ebx\n"
        "mov %cr4, %eax\n"
        "push %eax\n"
        "or $0x20, %eax\n"
        "mov %eax, %cr4\n"
        "mov 12(%esp), %eax\n"
        "mov %eax, %cr3\n"
        "mov $0xc0000080, %ecx\n"
        "rdmsr\n"
        "or $0x100, %eax\n"
        "wrmsr\n"
        "mov %cr0, %eax\n"
        "or $0x80000000, %eax\n"
        "mov %eax, %cr0\n"
        "rdmsr\n"
        "mov %eax, long_efer\n" /* in compatibility mode now */
        "ljmp $0x78, $1f\n"
        ".code64\n"
        "1: movabs $0x1122334455667788, %rax\n"
        "mov %rax, %r15\n"
        "bswap %r15\n"
        "mov $long_result, %ebx\n"
        "mov %r15, (%rbx)\n"
        "mov $0x38, %eax\n"
        "push %rax\n"
        "lea 2f(%rip), %rax\n"
        "push %rax\n"
        "lretq\n"
        ".code32\n"
        "2: mov %cr0, %eax\n"
        "and $0x7fffffff, %eax\n"
        "mov %eax, %cr0\n"
        "mov $0xc0000080, %ecx\n"
        "rdmsr\n"
        "mov %eax, long_efer + 4\n"
        "and $0xfffffeff, %eax\n"
        "wrmsr\n"
        "pop %eax\n"
        "mov %eax, %cr4\n"
        "pop %ebx\n"
        "ret\n"
        ".popsection\n");
void long_trip(u32 cr3);

static void test_long(void)
{
    if (!cpu_has(0x80000001, 3, 29)) {
        skip("long mode", "not offered");
        return;
    }
    pml4[0] = (u32)pdpt | 7;
    pdpt[0] = 0x87; /* the first 1 GiB in one page, or in 2 MiB pages */
    static page_t pd;
    if (!cpu_has(0x80000001, 3, 26)) {
        for (unsigned n = 0; n < 512; n++)
            pd[n] = n << 21 | 0x87;
        pdpt[0] = (u32)pd | 7;
    }
    gdt[0x78 / 8] = make_desc(0, 0xfffff, ATTR_CODE | ATTR_G | ATTR_L);
    for (unsigned n = 0; n < 3; n++) {
        long_result = 0;
        cli();
        long_trip((u32)pml4);
        ok(long_result == 0x8877665544332211, "to 64-bit mode and back");
    }
    expect("EFER.LMA on the way", (u32)long_efer & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME);
    expect("and after paging is off", long_efer >> 32 & (EFER_LMA | EFER_LME), EFER_LME);
    struct real r;
    real_init(&r, &r_nop);
    run_real(&r);
    expect("and real mode afterwards", r.vec, VEC_DONE);
}

SNIP(lme_no_pae,
     "mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr; mov %cr0, %ebx; mov %ebx, %edx;"
     "or $0x80000000, %ebx",
     "mov %ebx, %cr0");

static void test_lme(void)
{
    struct ctx c;
    if (!cpu_has(0x80000001, 3, 29))
        return;
    ctx_init(&c, &lme_no_pae, 0);
    run(&c);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(u64)EFER_LME);
    ok(c.vec == GP && c.err == 0, "#GP, CR0.PG with EFER.LME but without CR4.PAE: %lu", c.vec);
}

int main(void)
{
    test_real();
    test_real_interrupts();
    test_v86();
    test_v86_interrupt();
    test_vme();
    test_pvi();
    test_bitmap();
    test_long();
    test_lme();
    return 0;
}
