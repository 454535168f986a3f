/*
 * intr.c - interrupts: when they are taken, in which order, and that none is lost (SDM vol.
 * 3A, 6.8, 6.7.1, chapter 10; 8259A, 8254, 82093AA). Sources that a program can pull: the counter
 * of the 8254 (IRQ 0), the keyboard controller's command D2 (IRQ 1), transmitter-empty of COM2 and
 * COM1 (IRQ 3, 4), the RTC (IRQ 8), and IPIs.
 */
#include "apic.h"

#define COM1 0x3f8
#define COM2 0x2f8

/* --- what happened --- */

/* Volatile: the compiler knows nothing of interrupts. */
static u8 seen[256]; /* vectors, in order */
static volatile unsigned nseen;
static volatile word seen_ip, seen_cs;
static volatile bool by_apic; /* who gets the EOI */
static void (*volatile in_handler)(unsigned vec);

static void quiet(unsigned irq)
{
    switch (irq) {
    case 1:
        inb(0x60);
        break;
    case 3:
        inb(COM2 + 2);
        break;
    case 4:
        inb(COM1 + 2);
        break;
    case 8: /* once is enough: no more of them */
        outb(0x70, 0x0b);
        outb(0x71, 0x02);
        outb(0x70, 0x0c);
        inb(0x71);
    }
}

static void note(struct frame *f)
{
    if (nseen < sizeof(seen))
        seen[nseen] = (u8)f->vec;
    nseen = nseen + 1;
    seen_ip = f->ip;
    seen_cs = f->cs;
    if (in_handler)
        in_handler((unsigned)f->vec);
    if (f->vec < 0x30)
        quiet((unsigned)f->vec - 0x20);
    if (by_apic)
        apic_write(APIC_EOI, 0);
    else
        pic_eoi((unsigned)f->vec - 0x20);
}

static void forget(void)
{
    nseen = 0;
}

static void window(void) /* lets everything pending in */
{
    sti();
    for (unsigned n = 0; n < 100; n++)
        cpu_relax();
    cli();
}

static bool wait_seen(unsigned n, u32 us)
{
    u32 from = usec();
    sti();
    while (nseen < n && usec() - from < us)
        cpu_relax();
    cli();
    return nseen >= n;
}

static bool order_is(const u8 *want, unsigned n)
{
    return nseen == n && !memcmp(seen, want, n);
}

static void claim_order(const char *name, const u8 *want, unsigned n)
{
    if (order_is(want, n)) {
        ok(true, "%s", name);
        return;
    }
    print("%s: %u of %u:", name, nseen, n);
    for (unsigned k = 0; k < nseen && k < 32; k++)
        print(" %x", seen[k]);
    print("\n");
    ok(false, "%s", name);
}

/* --- sources --- */

/* Until the 8259 has seen it: a busy host may be late. */
static void wait_requested(unsigned irq)
{
    u32 from = usec();
    while (!(pic_read(0x0a) >> irq & 1) && usec() - from < 2000000)
        cpu_relax();
}

static void pull_pit(void)
{
    pit_start(0, 2);
    wait_requested(0);
}

static void pull_keyboard(void)
{
    while (inb(0x64) & 2)
        cpu_relax();
    outb(0x64, 0xd2);
    while (inb(0x64) & 2)
        cpu_relax();
    outb(0x60, 0x1e);
}

static void pull_com(u16 port)
{
    outb(port + 4, 8 | 3); /* OUT2 lets the interrupt out */
    outb(port + 1, 0);
    outb(port + 1, 2); /* transmitter empty: at once */
}

static void pull_rtc(void)
{
    outb(0x70, 0x0a);
    outb(0x71, 0x26); /* 1024 Hz */
    outb(0x70, 0x0c);
    inb(0x71);
    outb(0x70, 0x0b);
    outb(0x71, 0x42); /* PIE, 24 h */
    wait_requested(8);
}

static void stop_all(void)
{
    quiet(8);
    outb(COM1 + 1, 0);
    outb(COM2 + 1, 0);
    quiet(1);
    quiet(3);
    quiet(4);
    pit_start(0, 0xffff);
}

/* --- 8259 --- */

static void test_pic_kept(void)
{
    static const u8 want[] = {0x20, 0x21, 0x28, 0x23, 0x24};
    pic_setup(0x11f);
    forget();
    pull_com(COM1);
    pull_com(COM2);
    pull_rtc();
    pull_keyboard();
    pull_pit();
    expect("IF clear: nothing is delivered", nseen, 0);
    expect("and all of it waits in the IRR", pic_read(0x0a) & 0x11b, 0x11b);
    in_handler = NULL;
    sti();
    for (unsigned n = 0; n < 1000 && nseen < 5; n++)
        cpu_relax();
    cli();
    claim_order("IF set: each once, by priority", want, 5);
    expect("nothing is left in service", pic_read(0x0b), 0);
    stop_all();
}

static volatile unsigned in_service;

static void mark(u8 m)
{
    seen[nseen] = m;
    nseen = nseen + 1;
}

/* Nothing may be printed here: that would pull COM1. */
static void nest(unsigned vec)
{
    if (vec == 0x24 && nseen == 1) { /* a more urgent one interrupts this handler */
        outb(COM1 + 1, 0);
        pull_keyboard();
        window();
        mark(0xf4);
    } else if (vec == 0x21) { /* a less urgent one does not */
        in_service = pic_read(0x0b);
        pull_com(COM2);
        window();
        mark(0xf1);
    }
}

static void test_pic_nested(void)
{
    static const u8 want[] = {0x24, 0x21, 0xf1, 0x23, 0xf4};
    forget();
    in_handler = nest;
    pull_com(COM1);
    window();
    in_handler = NULL;
    claim_order("a more urgent request interrupts a handler, a less urgent one waits", want, 5);
    expect("in service: keyboard and COM1", in_service, 0x12);
    stop_all();
    window();
}

static void test_pic_mask(void)
{
    static const u8 want[] = {0x21};
    pic_setup(0);
    forget();
    pull_keyboard();
    window();
    expect("masked: not delivered", nseen, 0);
    outb(0x21, (u8)~2);
    window();
    claim_order("unmasked: delivered", want, 1);
    pull_com(COM1);
    outb(0x21, (u8)~0x10);
    outb(0x21, 0xff);
    forget();
    window();
    expect("masked again before it was taken", nseen, 0);
    stop_all();
    pic_setup(0x11f);
    window();
    forget();
}

/* --- 8254 --- */

static void test_pit(void)
{
    pic_setup(1);
    forget();
    u32 from = usec();
    pit_start(2, 1193); /* 1 kHz */
    bool good = wait_seen(20, 3000000);
    u32 us = usec() - from;
    pit_start(0, 0xffff);
    ok(good && us > 15000 && us < 3000000, "8254, 20 periods of 1 ms took %u us", us);
    window();
    forget();
    pit_start(0, 1193);
    wait_seen(1, 3000000);
    wait_seen(2, 5000);
    expect("8254 mode 0 interrupts once", nseen, 1);
    outb(0x43, 0x30);
    outb(0x40, 0);
    outb(0x40, 0x80);
    outb(0x43, 0);
    u32 a = inb(0x40) | (u32)inb(0x40) << 8;
    udelay(500);
    outb(0x43, 0);
    u32 b = inb(0x40) | (u32)inb(0x40) << 8;
    ok(a - b > 400 && a - b < 20000, "8254 counts down: %x then %x", a, b);
    stop_all();
    pic_setup(0);
}

/* --- between instructions (6.8.3; vol. 2, STI, POPF, MOV, IRET) --- */

#define MARKED(name, code)                                                                         \
    __asm__(".pushsection .snip, \"awx\"\n.globl " #name "\n" #name ":" code "\n.popsection\n");   \
    extern const char name[]

MARKED(sti_code, "sti\n sti_next: nop\n sti_after: nop; cli; ret");
MARKED(sticli_code, "sti; cli; nop; ret");
MARKED(popf_code, "pushf; orl $0x200, (%rsp); popf\n popf_after: nop; nop; cli; ret");
MARKED(stiss_code, "mov %ss, %eax; sti; mov %eax, %ss; nop\n stiss_after: nop; cli; ret");
MARKED(stisti_code, "sti\n sti\n stisti_after: nop; nop; cli; ret");
MARKED(stiret_code,
       "lea stiret_target(%rip), %rax; push %rax; sti; ret; ud2\n stiret_target: nop; cli; ret");
MARKED(iret_code, "mov %rsp, %rax; mov %ss, %ecx; push %rcx; push %rax; pushf; orl $0x200, (%rsp);"
                  "push $8; lea iret_target(%rip), %rax; push %rax; iretq\n"
                  "iret_target: nop; nop; cli; ret");
extern const char sti_after[], popf_after[], stiss_after[], stisti_after[], stiret_target[],
    iret_target[];

static void window_at(const char *name, const char *code, const char *want)
{
    forget();
    by_apic = true;
    apic_ipi(0, ICR_SELF | 0x50); /* waits, as IF is clear */
    __asm__ volatile("call *%0" : : "r"(code) : "rax", "rcx", "memory", "cc");
    unsigned n = nseen;
    if (!want) {
        expect(name, n, 0);
        window();
    } else {
        ok(n == 1 && seen_ip == (word)want, "%s: %u interrupts, at %ld past the place", name, n,
           (long)(seen_ip - (word)want));
    }
    by_apic = false;
}

static void test_windows(void)
{
    window_at("STI: after the next instruction", sti_code, sti_after);
    window_at("STI, CLI: never", sticli_code, NULL);
    window_at("STI, STI: the second has no shadow", stisti_code, stisti_after);
    window_at("STI, MOV SS: after the one behind that", stiss_code, stiss_after);
    window_at("STI, RET: at the return address", stiret_code, stiret_target);
    window_at("POPF: at once", popf_code, popf_after);
    window_at("IRET: at once", iret_code, iret_target);
}

/* --- HLT --- */

static void test_hlt(void)
{
    pic_setup(1);
    forget();
    pit_start(0, 2000);
    sti_hlt_cli();
    expect("HLT wakes for an interrupt", nseen, 1);
    pit_start(0, 0xffff);
    pic_setup(0);
    forget();
    by_apic = true;
    apic_ipi(0, ICR_SELF | 0x51);
    sti_hlt_cli();
    expect("HLT with one pending goes on", nseen, 1);
    by_apic = false;
}

/* --- NMI (6.7) --- */

static volatile unsigned nmis, nmi_depth, nmi_deepest;
static volatile bool nmi_again, nmi_iret;

static void on_nmi(struct frame *f)
{
    nmis = nmis + 1;
    nmi_depth = nmi_depth + 1;
    if (nmi_depth > nmi_deepest)
        nmi_deepest = nmi_depth;
    if (nmi_again && nmis == 1) {
        apic_ipi(0, ICR_SELF | ICR_NMI);
        apic_ipi(0, ICR_SELF | ICR_NMI);
        for (unsigned n = 0; n < 200; n++)
            cpu_relax();
        if (nmi_iret)
            __asm__ volatile("int $0x60" : : : "memory");
        for (unsigned n = 0; n < 200; n++)
            cpu_relax();
    }
    nmi_depth = nmi_depth - 1;
}

static void on_nothing(struct frame *f)
{
}

static void nmi_case(const char *name, bool again, bool iret, unsigned want, unsigned depth)
{
    nmis = nmi_depth = nmi_deepest = 0;
    nmi_again = again;
    nmi_iret = iret;
    handler[2] = on_nmi;
    handler[0x60] = on_nothing;
    apic_ipi(0, ICR_SELF | ICR_NMI);
    for (unsigned n = 0; n < 1000 && nmis < want; n++)
        cpu_relax();
    for (unsigned n = 0; n < 200; n++)
        cpu_relax();
    ok(nmis == want && nmi_deepest == depth, "%s: %u NMIs, %u deep", name, nmis, nmi_deepest);
}

static void test_nmi(void)
{
    nmi_case("NMI with IF clear", false, false, 1, 1);
    nmi_case("NMI blocked in its handler, one kept", true, false, 2, 1);
    nmi_case("any IRET unblocks NMI", true, true, 2, 2);
    nmis = 0;
    nmi_again = false;
    /* The 8254 through the 8259 to LINT0, which makes an NMI of it. */
    pic_setup(1);
    apic_write(APIC_LINT0, 0x400);
    pit_start(0, 5000);
    __asm__ volatile("hlt" : : : "memory");
    expect("HLT with IF clear ends by NMI", nmis, 1);
    apic_write(APIC_LINT0, 0x700);
    pic_setup(0);
}

/* --- local APIC (10.5 to 10.9) --- */

static void apic_enable(void)
{
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_TPR, 0);
    by_apic = true;
    forget();
}

static void test_apic_order(void)
{
    u8 want[15];
    forget();
    for (unsigned n = 0; n < 15; n++) {
        unsigned v = 0x35 + 7 * n % 15 * 3; /* 15 vectors, shuffled */
        apic_ipi(0, ICR_SELF | v);
        apic_ipi(0, ICR_SELF | v); /* a second request of a waiting vector is the same one */
    }
    for (unsigned n = 0; n < 15; n++)
        want[n] = (u8)(0x35 + 14 * 3 - 3 * n);
    expect("APIC: IF clear, nothing is delivered", nseen, 0);
    window();
    claim_order("APIC: highest vector first, each once", want, 15);
}

static void apic_nest(unsigned vec)
{
    if (vec != 0x55)
        return;
    apic_ipi(0, ICR_SELF | 0x54); /* same class: waits */
    apic_ipi(0, ICR_SELF | 0x61); /* higher class: interrupts */
    window();
    expect("PPR while 0x55 is in service", apic_read(APIC_PPR), 0x50);
    ok(apic_bit(APIC_ISR, 0x55) && !apic_bit(APIC_ISR, 0x61) && apic_bit(APIC_IRR, 0x54),
       "ISR and IRR bits");
    seen[nseen] = 0xff;
    nseen = nseen + 1;
}

static void test_apic_nested(void)
{
    static const u8 want[] = {0x55, 0x61, 0xff, 0x54};
    forget();
    in_handler = apic_nest;
    apic_ipi(0, ICR_SELF | 0x55);
    window();
    in_handler = NULL;
    claim_order("APIC: classes nest", want, 4);
}

static void test_tpr(void)
{
    static const u8 want[] = {0x45};
    forget();
    write_cr8(4);
    expect("CR8 is TPR[7:4]", apic_read(APIC_TPR), 0x40);
    apic_ipi(0, ICR_SELF | 0x45);
    window();
    expect("TPR 4 holds class 4", nseen, 0);
    apic_ipi(0, ICR_SELF | 0x53);
    window();
    expect("but not class 5", nseen, 1);
    forget();
    sti();
    write_cr8(3);
    __asm__ volatile("nop; nop");
    cli();
    claim_order("TPR 3 lets it go", want, 1);
    apic_write(APIC_TPR, 0x7f);
    expect("CR8 reads TPR", read_cr8(), 7);
    expect("PPR is TPR if that is higher", apic_read(APIC_PPR), 0x7f);
    write_cr8(0);
}

static void test_apic_dest(void)
{
    static const struct {
        const char *name;
        u32 dest, icr;
        unsigned want;
    } to[] = {
        {"IPI, physical", 0, 0x48, 1},
        {"IPI, physical, nobody", 5, 0x48, 0},
        {"IPI, physical broadcast", 0xff, 0x48, 1},
        {"IPI, logical", 0x02, ICR_LOGICAL | 0x48, 1},
        {"IPI, logical, nobody", 0x05, ICR_LOGICAL | 0x48, 0},
        {"IPI, lowest priority", 0x02, ICR_LOGICAL | ICR_LOWEST | 0x48, 1},
        {"IPI, all", 0, ICR_ALL | 0x48, 1},
        {"IPI, all but self", 0, ICR_OTHERS | 0x48, 0},
    };
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0x02000000);
    for (unsigned n = 0; n < ARRAY_SIZE(to); n++) {
        forget();
        apic_ipi(to[n].dest, to[n].icr);
        window();
        expect(to[n].name, nseen, to[n].want);
    }
    apic_write(APIC_DFR, 0x0fffffff); /* cluster */
    apic_write(APIC_LDR, 0x12000000);
    forget();
    apic_ipi(0x12, ICR_LOGICAL | 0x48);
    apic_ipi(0x22, ICR_LOGICAL | 0x49);
    window();
    ok(nseen == 1 && seen[0] == 0x48, "IPI, cluster: %u", nseen);
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0x01000000);
}

static void test_apic_errors(void)
{
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ESR, 0);
    apic_ipi(0, ICR_SELF | 5);
    apic_write(APIC_ESR, 0);
    u32 esr = apic_read(APIC_ESR);
    ok(esr & 0x60, "ESR: illegal vector: %x", esr);
    apic_write(APIC_ESR, 0);
    expect("ESR clears", apic_read(APIC_ESR), 0);
    expect("APIC ID", apic_read(APIC_ID) >> 24, 0);
    ok((apic_read(APIC_VER) & 0xff) >= 0x10, "APIC version %x", apic_read(APIC_VER));
    apic_write(APIC_SVR, 0xff); /* software-disabled: LVT entries become masked */
    expect("disabled: LVT masked", apic_read(APIC_TIMER) >> 16 & 1, 1);
    apic_write(APIC_SVR, 0x1ff);
}

/* --- its timer (10.5.4) --- */

static void test_timer(void)
{
    apic_write(APIC_TDCR, 3); /* by 16 */
    apic_write(APIC_TIMER, 0x70);
    forget();
    apic_write(APIC_TMICT, 10000);
    bool once = wait_seen(1, 3000000) && !wait_seen(2, 3000);
    ok(once && seen[0] == 0x70, "timer, one-shot: %u", nseen);
    expect("and stands at 0", apic_read(APIC_TMCCT), 0);
    apic_write(APIC_TIMER, LVT_PERIOD | 0x71);
    forget();
    apic_write(APIC_TMICT, 20000);
    ok(wait_seen(5, 3000000), "timer, periodic");
    apic_write(APIC_TIMER, LVT_PERIOD | LVT_MASKED | 0x71);
    window();
    forget();
    ok(!wait_seen(1, 3000), "timer, masked");
    apic_write(APIC_TMICT, 0);
    apic_write(APIC_TIMER, LVT_MASKED);
    apic_write(APIC_TMICT, 0xffffffff);
    u32 a = apic_read(APIC_TMCCT);
    udelay(200);
    u32 b = apic_read(APIC_TMCCT);
    ok(a > b, "timer counts down: %x then %x", a, b);
    apic_write(APIC_TMICT, 0);
}

static void test_deadline(void)
{
    if (!cpu_has(1, 2, 24)) {
        skip("TSC deadline", "not offered");
        return;
    }
    apic_write(APIC_TIMER, LVT_TSC | 0x72);
    __asm__ volatile("mfence" : : : "memory");
    forget();
    u64 at = rdtsc() + 2000000;
    wrmsr(MSR_TSC_DEADLINE, at);
    expect("TSC deadline reads back", rdmsr(MSR_TSC_DEADLINE), at);
    bool good = wait_seen(1, 3000000);
    ok(good && rdtsc() >= at, "TSC deadline");
    expect("and is disarmed", rdmsr(MSR_TSC_DEADLINE), 0);
    forget();
    wrmsr(MSR_TSC_DEADLINE, rdtsc() - 1000);
    ok(wait_seen(1, 3000000), "TSC deadline in the past: at once");
    forget();
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 100000000);
    wrmsr(MSR_TSC_DEADLINE, 0);
    ok(!wait_seen(1, 80000), "TSC deadline disarmed");
    apic_write(APIC_TIMER, LVT_MASKED);
}

/* --- I/O APIC --- */

static volatile u32 remote_irr;

static void level_again(unsigned vec)
{
    remote_irr = ioapic_read(0x10 + 2 * 4);
    if (vec == 0x58 && nseen >= 3)
        outb(COM1 + 1, 0);
}

static void test_ioapic(void)
{
    ok((ioapic_read(1) >> 16 & 0xff) >= 23, "I/O APIC has %u inputs",
       (ioapic_read(1) >> 16 & 0xff) + 1);
    pit_start(0, 0xffff);
    ioapic_route(2, 0x57, 0);
    forget();
    pit_start(0, 100);
    wait_seen(1, 3000000);
    ok(nseen == 1 && seen[0] == 0x57, "I/O APIC, edge: %u", nseen);
    ioapic_route(2, IOAPIC_MASK, 0);

    ioapic_route(4, IOAPIC_LEVEL | 0x58, 0);
    forget();
    in_handler = level_again;
    pull_com(COM1);
    window();
    window();
    in_handler = NULL;
    expect("I/O APIC, level: remote IRR is set in the handler", remote_irr & IOAPIC_RIRR,
           IOAPIC_RIRR);
    ok(nseen == 3 && seen[2] == 0x58, "I/O APIC, level: again after EOI until it is quiet: %u",
       nseen);
    expect("remote IRR is clear", ioapic_read(0x10 + 2 * 4) & IOAPIC_RIRR, 0);
    ioapic_route(4, IOAPIC_MASK, 0);
    forget();
    in_handler = level_again;
    pull_com(COM1);
    window();
    unsigned masked = nseen;
    ioapic_route(4, IOAPIC_LEVEL | 0x58, 0);
    window();
    in_handler = NULL;
    expect("I/O APIC, masked", masked, 0);
    expect("I/O APIC, unmasked while the level is high", nseen, 3);
    ioapic_route(4, IOAPIC_MASK, 0);
    stop_all();
}

/* --- x2APIC (10.12) --- */

static void test_x2apic(void)
{
    u64 v;
    if (!cpu_has(1, 2, 21)) {
        skip("x2APIC", "not offered");
        return;
    }
    expect("#GP, x2APIC register in xAPIC mode", (u32)try_rdmsr(X2(APIC_ID), &v), GP);
    u64 base = rdmsr(MSR_APIC_BASE);
    expect("APIC base: BSP, enabled, at FEE00000", base & ~0x400ull, 0xfee00900);
    wrmsr(MSR_APIC_BASE, base | 0x400);
    expect("x2APIC ID", rdmsr(X2(APIC_ID)), 0);
    expect("LDR is made from the ID", rdmsr(X2(APIC_LDR)), 1);
    forget();
    by_apic = false;
    in_handler = NULL;
    /* EOI through the MSR: none of the handlers does that. */
    wrmsr(0x83f, 0x90);
    expect("x2APIC self IPI is in the IRR", rdmsr(X2(APIC_IRR + 0x40)) >> 16 & 1, 1);
    wrmsr(X2(APIC_TPR), 0xf0);
    expect("CR8 in x2APIC mode", read_cr8(), 15);
    wrmsr(X2(APIC_TPR), 0);
    expect("#GP, x2APIC TPR's reserved bits", (u32)try_wrmsr(X2(APIC_TPR), 0x100), GP);
    expect("#GP, write of the ID", (u32)try_wrmsr(X2(APIC_ID), 0), GP);
    expect("#GP, EOI other than 0", (u32)try_wrmsr(X2(APIC_EOI), 1), GP);
    expect("#GP, read of EOI", (u32)try_rdmsr(X2(APIC_EOI), &v), GP);
    expect("#GP, ICR's upper half", (u32)try_rdmsr(X2(APIC_ICR2), &v), GP);
    expect("#GP, ICR's reserved bits", (u32)try_wrmsr(X2(APIC_ICR), 1u << 20), GP);
    expect("#GP, no such register", (u32)try_rdmsr(0x8ff, &v), GP);
    expect("#GP, from x2APIC straight to xAPIC", (u32)try_wrmsr(MSR_APIC_BASE, base & ~0x400ull),
           GP);
    expect("#GP, x2APIC without the enable bit",
           (u32)try_wrmsr(MSR_APIC_BASE, (base & ~0x800ull) | 0x400), GP);
    wrmsr(MSR_APIC_BASE, base & ~0xc00ull);
    known(!cpu_has(1, 3, 9), "CPUID.APIC follows the enable bit", "popf shows it always");
    wrmsr(MSR_APIC_BASE, base & ~0x400ull);
    expect("and again", cpu_has(1, 3, 9), 1);
    expect("#GP, APIC base's reserved bits", (u32)try_wrmsr(MSR_APIC_BASE, base | 1), GP);
    apic_enable();
}

/* --- interrupts of other code --- */

SNIP(spin3, "", "1: dec %ecx; jnz 1b");
static u8 block[2][65536];
SNIP(long_movs, "cld", "rep movsb");

static void test_user(void)
{
    struct ctx c;
    forget();
    apic_write(APIC_TIMER, LVT_PERIOD | 0x71);
    apic_write(APIC_TMICT, 2000);
    for (unsigned k = 0; k < 300 && !nseen; k++) {
        ctx_init(&c, &spin3, 3);
        c.gpr[CX] = 3000000;
        c.flags |= FL_IF;
        run(&c);
    }
    ok(c.vec == VEC_DONE && c.gpr[CX] == 0 && nseen > 0 && seen_cs == SEL_CODE3,
       "ring 3 is interrupted and goes on: %u times", nseen);
    unsigned bad = 0, in_movs = 0;
    for (unsigned k = 0; k < 300; k++) {
        forget();
        memset(block[1], 0, sizeof(block[1]));
        for (unsigned n = 0; n < sizeof(block[0]); n++)
            block[0][n] = (u8)(n * 7 + k);
        ctx_init(&c, &long_movs, 3);
        c.gpr[SI] = (word)block[0];
        c.gpr[DI] = (word)block[1];
        c.gpr[CX] = sizeof(block[0]);
        c.flags |= FL_IF;
        run(&c);
        in_movs += nseen && seen_ip == long_movs.at;
        bad += c.vec != VEC_DONE || c.gpr[CX] || memcmp(block[0], block[1], sizeof(block[0]));
        if (in_movs > 3 && k > 10)
            break;
    }
    ok(!bad, "REP MOVSB interrupted %u times: %u copies wrong", in_movs, bad);
    apic_write(APIC_TMICT, 0);
    apic_write(APIC_TIMER, LVT_MASKED);
    window();
}

int main(void)
{
    for (unsigned v = 0x20; v < 0x80; v++)
        handler[v] = note;
    for (unsigned pin = 0; pin < 16; pin++)
        ioapic_route(pin, IOAPIC_MASK, 0);
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_LINT0, 0x700);
    stop_all();
    pic_setup(0x11f);
    window();
    test_pic_kept();
    test_pic_nested();
    test_pic_mask();
    test_pit();
    test_windows();
    test_hlt();
    test_nmi();
    apic_enable();
    test_apic_order();
    test_apic_nested();
    test_tpr();
    test_apic_dest();
    test_apic_errors();
    test_timer();
    test_deadline();
    test_ioapic();
    test_user();
    test_x2apic();
    return 0;
}
