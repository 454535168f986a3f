/*
 * direct_smp.c - two processors that are in user code most of the time: what one changes, by itself
 * or by its kernel, the other must see, whoever executes it (engine/direct/direct.h).
 *
 * The second processor stays in one user program, that does what `shared` asks for; its kernel is
 * entered by IPIs and faults alone.
 */
#include "ap.h"
#include "direct.h"

#define VEC_TLB 0x51
#define ROUNDS  100u

enum { IDLE, MODIFY, WATCH, CALL };

/* ORDER SHARED: the snippets. */
static volatile struct {
    u32 mode; /* what the second processor does */
    u32 n, ack, result;
    u32 wrong, floor, beats;
} shared __attribute__((aligned(4096)));

#define SHARED_VA DATA
#define RW_VA     (DATA + PAGE)     /* frame[0], which holds code, to write */
#define RX_VA     (DATA + 2 * PAGE) /* the same to run */
#define WINDOW    (DATA + 3 * PAGE) /* what the first processor's kernel exchanges */
#define TALLY     (DATA + 4 * PAGE) /* what the second processor writes */
#define STACK2    (DATA + 5 * PAGE)
#define CODE_2ND  (DATA + 6 * PAGE)

/* RBX: shared; RDI: code to call; RSI: WINDOW; R10: TALLY. */
SNIP(second, "xor %r8d, %r8d",
     "1: pause; mov (%rbx), %eax; cmp $1, %eax; je 2f; cmp $2, %eax; je 3f; cmp $3, %eax; je 5f; "
     "jmp 1b\n"
     "2: mov 4(%rbx), %r8d; cmp 8(%rbx), %r8d; je 1b; mov %rbx, %r9; xor %eax, %eax; cpuid; "
     "mov %r9, %rbx; call *%rdi; mov %eax, 12(%rbx); mov %r8d, 8(%rbx); jmp 1b\n"
     "3: mov 20(%rbx), %eax; mov (%rsi), %edx; cmp %eax, %edx; jae 4f; lock incl 16(%rbx)\n"
     "4: lock incl (%r10); incl 24(%rbx); jmp 1b\n"
     "5: call *%rdi; cmp $0x77, %eax; je 6f; lock incl 16(%rbx)\n"
     "6: incl 24(%rbx); jmp 1b");

/* RBX: shared; RSI: RW_VA. The first writes code, the other waits for it and runs it. */
SNIP(modify, "mov $60, %ecx",
     "1: mov %ecx, 1(%rsi); mov %ecx, 4(%rbx); 2: pause; cmp %ecx, 8(%rbx); jne 2b; "
     "cmp %ecx, 12(%rbx); je 3f; lock incl 16(%rbx); 3: dec %ecx; jnz 1b");
SNIP(write_beside, "mov $500, %ecx", "1: incl 0x800(%rsi); dec %ecx; jnz 1b");

/* --- the second processor --- */

static struct tss tss2;
static u8 kernel_stack2[8192] __attribute__((aligned(16)));
static u8 stack2[4096] __attribute__((aligned(4096))), code2[4096] __attribute__((aligned(4096)));
static volatile u32 alive, flushed, faults;

static void enter_user(void)
{
    __asm__ volatile("pushq %0; pushq %1; pushq %2; pushq %3; pushq %4; iretq"
                     :
                     : "i"(SEL_DATA3), "r"(STACK2 + PAGE - 64), "i"(FL_ONE | FL_IF),
                       "i"(SEL_CODE3_64), "r"(CODE_2ND), "b"(SHARED_VA), "S"(WINDOW), "D"(RX_VA)
                     : "memory");
}

void ap_main(unsigned n)
{
    load_gdt_idt();
    apic_write(APIC_SVR, 0x1ff);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    tss2.sp[0] = (word)kernel_stack2 + sizeof(kernel_stack2);
    tss2.iomap = sizeof(tss2);
    gdt[SEL_FREE / 8] = make_desc((u32)(word)&tss2, sizeof(tss2) - 1, 0x89);
    gdt[SEL_FREE / 8 + 1] = 0;
    __asm__ volatile("ltr %w0" : : "r"(SEL_FREE) : "memory");
    alive = 1;
    __asm__ volatile("mov %0, %%r10" : : "r"(TALLY) : "r10");
    enter_user();
}

static void on_tlb(struct frame *f)
{
    invlpg((void *)WINDOW);
    invlpg((void *)TALLY);
    flushed = flushed + 1;
    apic_write(APIC_EOI, 0);
}

/* The second processor's: TALLY is read-only for a while. The first's end its run(). */
static void on_fault(struct frame *f)
{
    if (!(f->cs & 3) || read_cr2() != TALLY || f->err != 7) {
        handler[PF] = NULL;
        trap(f);
        return;
    }
    faults = faults + 1;
    while (!(*pte(TALLY) & W))
        cpu_relax();
}

static void shoot_down(void)
{
    u32 before = flushed;
    invlpg((void *)WINDOW);
    invlpg((void *)TALLY);
    apic_ipi(0, ICR_OTHERS | VEC_TLB);
    while (flushed == before)
        cpu_relax();
}

static bool start_second(void)
{
    map(SHARED_VA, (void *)&shared, P | W | U | NX);
    map(RW_VA, frame[0], P | W | U | NX);
    map(RX_VA, frame[0], P | U);
    map(WINDOW, frame[1], P | U | NX);
    map(TALLY, frame[3], P | W | U | NX);
    map(STACK2, stack2, P | W | U | NX);
    map(CODE_2ND, code2, P | U);
    memcpy(code2, (void *)second.start, size_of(&second));
    memcpy((void *)0x8000, ap_begin, (size_t)(ap_end - ap_begin));
    apic_write(APIC_SVR, 0x1ff);
    apic_ipi(0, ICR_OTHERS | ICR_INIT | ICR_ASSERT);
    udelay(1000);
    apic_ipi(0, ICR_OTHERS | ICR_STARTUP | ICR_ASSERT | 8);
    u32 from = usec();
    while (!alive && usec() - from < 1500000)
        cpu_relax();
    return alive;
}

static void set_mode(u32 mode)
{
    shared.mode = mode;
    shared.wrong = 0;
    udelay(2000);
}

/* The host may not have let it run for a while. */
static void await_beat(void)
{
    u32 had = shared.beats;
    while (shared.beats == had)
        cpu_relax();
}

static void first(const struct snip *s)
{
    load_code(s);
    c.gpr[BX] = SHARED_VA;
    c.gpr[SI] = RW_VA;
    run(&c);
}

/* --- tests --- */

/* MOV $n, %eax; RET */
static void put_function(u32 n)
{
    frame[0][0] = 0xb8;
    *(volatile u32 *)(frame[0] + 1) = n;
    frame[0][5] = 0xc3;
}

static void test_modify(void)
{
    put_function(0);
    set_mode(MODIFY);
    first(&modify);
    ok(c.vec == VEC_DONE && !shared.wrong, "code that the other runs is written, %u wrong",
       shared.wrong);
    set_mode(IDLE);
}

/* Code on a page to which the other writes beside it. */
static void test_beside(void)
{
    unsigned bad = 0;
    put_function(0x77);
    *(volatile u32 *)(frame[0] + 0x800) = 0;
    for (unsigned n = 1; n <= 10; n++) {
        set_mode(n & 1 ? CALL : IDLE);
        if (n & 1)
            await_beat();
        first(&write_beside);
        bad += c.vec != VEC_DONE || *(volatile u32 *)(frame[0] + 0x800) != 500 * n || shared.wrong;
    }
    set_mode(IDLE);
    ok(!bad, "written beside code that the other runs, %u wrong", bad);
}

static void test_window(void)
{
    *(volatile u32 *)frame[1] = *(volatile u32 *)frame[2] = 0;
    set_mode(WATCH);
    u32 beats = shared.beats;
    for (u32 n = 1; n <= ROUNDS; n++) {
        *(volatile u32 *)frame[1 + (n & 1)] = n;
        *pte(WINDOW) = (u64)frame[1 + (n & 1)] | P | U | NX;
        shoot_down();
        shared.floor = n; /* from here on nobody may see what was before */
        if (n % 8 == 0)
            await_beat();
    }
    await_beat();
    ok(!shared.wrong, "a page exchanged, %u stale reads in %u", shared.wrong, shared.beats - beats);
}

static void test_tally(void)
{
    volatile u32 *tally = (volatile u32 *)frame[3];
    unsigned bad = 0;
    handler[PF] = on_fault;
    for (u32 n = 1; n <= ROUNDS; n++) {
        u32 had = faults;
        *pte(TALLY) = (u64)frame[3] | P | U | NX | A | D;
        shoot_down();
        u32 was = *tally;
        udelay(n % 8 * 10);
        while (n % 8 == 0 && faults == had) /* the host may not have let it run yet */
            cpu_relax();
        bad += *tally != was;
        *pte(TALLY) = (u64)frame[3] | P | W | U | NX | A; /* not D */
        while (*tally == was)
            cpu_relax();
        bad += !(*pte(TALLY) & D);
    }
    ok(!bad && faults, "a page made read-only while the other writes, %u wrong", bad);
    set_mode(IDLE);
    handler[PF] = NULL;
}

int main(void)
{
    start_user();
    handler[VEC_TLB] = on_tlb;
    if (!start_second()) {
        ok(false, "the second processor does not start");
        return 0;
    }
    test_modify();
    test_beside();
    test_window();
    test_tally();
    return 0;
}
