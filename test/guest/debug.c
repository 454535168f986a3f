/*
 * debug.c - debug exceptions: breakpoints on code, data and ports, single steps, general detect,
 * and RF (SDM vol. 3B, 17.2, 17.3). For both widths.
 */
#include "guest.h"

SNIP(nop, "", "nop");
static u32 watched[4] __attribute__((aligned(16)));
SNIP(dbg_store, "", "movl $1, (%ebx); nop");
SNIP(dbg_load, "", "mov (%ebx), %eax; nop");
SNIP(dbg_byte3, "", "movb $1, 3(%ebx); nop");
SNIP(dbg_next, "", "movl $1, 4(%ebx); nop");
SNIP(dbg_across, "", "movl $1, -3(%ebx); nop");
SNIP(dbg_code, "nop", "nop");
SNIP(dbg_in, "", "in $0x80, %al; nop");
SNIP(dbg_dr, "", ".byte 0x0f, 0x21, 0xc0");
SNIP(dbg_ss, "mov %ss, %eax", "mov %eax, %ss; movl $1, (%ebx); nop");
SNIP(dbg_ss_load, "", "mov (%ebx), %ss; nop; nop");
SNIP(dbg_popf, "pushf; orl $0x100, (%esp)", "popf; nop; nop");
SNIP(dbg_int, "", "int $0x20; nop");
SNIP(dbg_two, "", "nop; nop");
SNIP(dbg_rep, "mov %ebx, %edi; mov $4, %ecx", "rep stosl; nop");

#define DR7_L(n)      (1u << (2 * (n)))
#define DR7_RW(n, k)  ((u32)(k) << (16 + 4 * (n)))
#define DR7_LEN(n, l) ((u32)(l) << (18 + 4 * (n)))
enum { RW_EXEC, RW_WRITE, RW_IO, RW_ACCESS };
enum { LEN_1, LEN_2, LEN_8, LEN_4 };

/* Breakpoint n at `at`; the snippet's trap must come `off` bytes behind its instruction. */
static void watch_rf(const char *name, const struct snip *s, unsigned n, word at, unsigned kind,
                     unsigned len, unsigned ring, int off, u32 dr6, bool rf)
{
    struct ctx c;
    ctx_init(&c, s, ring);
    c.gpr[BX] = (word)watched;
    if (n == 0)
        write_dr0(at);
    else
        write_dr3(at);
    write_dr6(0xffff0ff0);
    write_dr7(0x400 | DR7_L(n) | DR7_RW(n, kind) | DR7_LEN(n, len));
    run(&c);
    write_dr7(0x400);
    u32 got = (u32)read_dr6() & 0xe00f;
    if (off < 0)
        ok(c.vec == VEC_DONE && !(got & 0xf), "%s: vector %lu DR6 %x", name, c.vec, got);
    else
        ok(c.vec == DB && c.ip == s->at + (word)off && got == dr6 && !(c.flags & FL_RF) == !rf,
           "%s: vector %lu at+%ld DR6 %x RF %d", name, c.vec, (long)(c.ip - s->at), got,
           !!(c.flags & FL_RF));
}

static void watch(const char *name, const struct snip *s, unsigned n, word at, unsigned kind,
                  unsigned len, unsigned ring, int off, u32 dr6)
{
    watch_rf(name, s, n, at, kind, len, ring, off, dr6, false);
}

/* In 64-bit code (%ebx) has an address-size prefix: one byte more. */
#define X (IS64 ? 1 : 0)

static void test_breakpoints(void)
{
    word w = (word)watched;
    watch("write watched", &dbg_store, 0, w, RW_WRITE, LEN_4, 3, 6 + X, 1);
    watch("write watched in ring 0 by DR3", &dbg_store, 3, w, RW_WRITE, LEN_4, 0, 6 + X, 8);
    watch("read not watched", &dbg_load, 0, w, RW_WRITE, LEN_4, 3, -1, 0);
    watch("read watched", &dbg_load, 0, w, RW_ACCESS, LEN_4, 3, 2 + X, 1);
    watch("write watched as access", &dbg_store, 0, w, RW_ACCESS, LEN_1, 3, 6 + X, 1);
    watch("last byte", &dbg_byte3, 0, w, RW_WRITE, LEN_4, 3, 4 + X, 1);
    watch("byte behind two", &dbg_byte3, 0, w, RW_WRITE, LEN_2, 3, -1, 0);
    watch("low bits of the address ignored", &dbg_byte3, 0, w + 2, RW_WRITE, LEN_2, 3, 4 + X, 1);
    watch("next word", &dbg_next, 0, w, RW_WRITE, LEN_4, 3, -1, 0);
#if IS64
    watch("eight bytes", &dbg_next, 0, w, RW_WRITE, LEN_8, 3, 7 + X, 1);
#endif
    watch("touched from below", &dbg_across, 0, w, RW_WRITE, LEN_1, 3, 7 + X, 1);
    watch("code", &dbg_code, 0, dbg_code.at, RW_EXEC, LEN_1, 3, 0, 1);
    watch("code in ring 0", &dbg_code, 3, dbg_code.at, RW_EXEC, LEN_1, 0, 0, 8);
    watch("port, CR4.DE clear", &dbg_in, 0, 0x80, RW_IO, LEN_1, 0, -1, 0);
    write_cr4(read_cr4() | CR4_DE);
    watch("port", &dbg_in, 0, 0x80, RW_IO, LEN_1, 0, 2, 1);
    watch("another port", &dbg_in, 0, 0x84, RW_IO, LEN_1, 0, -1, 0);
    write_cr4(read_cr4() & ~(word)CR4_DE);
    watch("after MOV SS", &dbg_ss, 0, w, RW_WRITE, LEN_4, 0, 8 + X, 1);
    watched[0] = SEL_DATA0;
    watch("MOV SS from watched memory waits", &dbg_ss_load, 0, w, RW_ACCESS, LEN_4, 0, 3 + X, 1);
    /* 17.3.1.1: a trap after any iteration but the last pushes RF = 1. */
    watch_rf("REP STOS, after the iteration", &dbg_rep, 0, w, RW_WRITE, LEN_4, 3, 0, 1, true);
    watch("REP STOS, the last iteration", &dbg_rep, 0, w + 12, RW_WRITE, LEN_4, 3, 2, 1);
}

/* RF lets the instruction at a code breakpoint go, once. */
static void test_rf(void)
{
    struct ctx c;
    write_dr0(dbg_code.at);
    write_dr7(0x400 | DR7_L(0));
    ctx_init(&c, &dbg_code, 3);
    run(&c);
    bool hit = c.vec == DB;
    c.flags |= FL_RF;
    run(&c);
    write_dr7(0x400);
    ok(hit && c.vec == VEC_DONE && !(c.flags & FL_RF), "RF suppresses a code breakpoint: %lu",
       c.vec);
}

static void step(const char *name, const struct snip *s, unsigned ring, u32 fl, int off)
{
    struct ctx c;
    write_dr6(0xffff0ff0);
    ctx_init(&c, s, ring);
    c.flags |= fl;
    c.gpr[BX] = (word)watched;
    c.ip = s->at;
    run(&c);
    u32 dr6 = (u32)read_dr6() & 0xe00f;
    ok(c.vec == DB && c.ip == s->at + (word)off && dr6 == DR6_BS, "%s: vector %lu at+%ld DR6 %x",
       name, c.vec, (long)(c.ip - s->at), dr6);
}

static unsigned int20_seen;
static word int20_flags;

static void on_int20(struct frame *f)
{
    int20_seen++;
    __asm__ volatile("pushf; pop %0" : "=r"(int20_flags));
}

static void test_step(void)
{
    struct ctx c;
    step("TF steps one instruction", &dbg_two, 3, FL_TF, 1);
    step("TF in ring 0", &dbg_two, 0, FL_TF, 1);
    step("TF stops in a repeated string instruction", &nop, 3, FL_TF, 1);
    c = (struct ctx){0};
    ctx_init(&c, &dbg_popf, 3);
    run(&c);
    ok(c.vec == DB && c.ip == dbg_popf.at + 2, "POPF sets TF: trap after the next: at+%ld",
       (long)(c.ip - dbg_popf.at));

    ctx_init(&c, &dbg_rep, 3);
    c.gpr[DI] = (word)watched;
    c.gpr[CX] = 4;
    c.ip = dbg_rep.at;
    c.flags |= FL_TF;
    run(&c);
    ok(c.vec == DB && c.ip == dbg_rep.at && c.gpr[CX] == 3 && c.flags & FL_RF,
       "TF after one iteration of REP STOS, RF set: at+%ld RCX %lx RF %d",
       (long)(c.ip - dbg_rep.at), c.gpr[CX], !!(c.flags & FL_RF));

    /* INT n clears TF on its way in; the step it was due is lost, the handler's IRET brings TF
     * back. */
    handler[0x20] = on_int20;
    ctx_init(&c, &dbg_int, 3);
    c.flags |= FL_TF;
    run(&c);
    handler[0x20] = NULL;
    ok(int20_seen == 1 && !(int20_flags & FL_TF) && c.vec == DB && c.ip == dbg_int.at + 3,
       "TF over INT n: %u calls, vector %lu at+%ld", int20_seen, c.vec, (long)(c.ip - dbg_int.at));
}

static void test_general_detect(void)
{
    struct ctx c;
    write_dr6(0xffff0ff0);
    ctx_init(&c, &dbg_dr, 0);
    write_dr7(0x2400);
    run(&c);
    ok(c.vec == DB && c.ip == dbg_dr.at && (read_dr6() & DR6_BD), "DR7.GD: vector %lu", c.vec);
    ok(!(read_dr7() & 0x2000), "#DB clears DR7.GD");
    write_dr7(0x400);
    expect("DR6's fixed bits", (u32)read_dr6() & 0xffff1ff0, 0xffff0ff0);
    write_dr7(0xffffffff & ~0x2000u);
    expect("DR7's fixed bits", read_dr7() & 0xdc00, 0x400);
    write_dr7(0x400);
}

/* DR4 and DR5 are DR6 and DR7 until CR4.DE says otherwise (17.2.2). */
SNIP(mov_dr4, "", ".byte 0x0f, 0x21, 0xe0");

static void test_dr4(void)
{
    struct ctx c;
    write_dr6(0xffff0ff1);
    ctx_init(&c, &mov_dr4, 0);
    run(&c);
    ok(c.vec == VEC_DONE && (u32)c.gpr[AX] == (u32)read_dr6(), "DR4 is DR6: %lu", c.vec);
    write_cr4(read_cr4() | CR4_DE);
    ctx_init(&c, &mov_dr4, 0);
    run(&c);
    write_cr4(read_cr4() & ~(word)CR4_DE);
    ok(c.vec == UD, "#UD, DR4 with CR4.DE: %lu", c.vec);
}

int main(void)
{
    test_breakpoints();
    test_rf();
    test_step();
    test_general_detect();
    test_dr4();
    return 0;
}
