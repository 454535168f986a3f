/*
 * smp.c - several processors: INIT and SIPI, IPIs of every kind, atomic operations, memory order,
 * TLB shoot-down, code modified by another processor (SDM vol. 3A, chapter 8 and 10.6). "cpus=N".
 */
#include "ap.h"

#define LOOPS   6000u
#define VEC_IPI 0x50
#define VEC_TLB 0x51

static unsigned ncpus;
static volatile u32 apic_id[CPUS_MAX], alive[CPUS_MAX];
static void (*volatile job)(unsigned cpu);
static volatile u32 job_no, jobs_done;
static volatile u32 ipis[CPUS_MAX], nmis[CPUS_MAX], beats[CPUS_MAX];
static volatile bool x2apic;

static void add(volatile u32 *p, u32 v)
{
    __asm__ volatile("lock addl %1, %0" : "+m"(*p) : "r"(v) : "memory", "cc");
}

static unsigned my_apic_id(void)
{
    return x2apic ? (u32)rdmsr(X2(APIC_ID)) : apic_read(APIC_ID) >> 24;
}

static unsigned whoami(void)
{
    u32 id = my_apic_id();
    for (unsigned n = 0; n < ncpus; n++)
        if (apic_id[n] == id)
            return n;
    return 0;
}

static void eoi(void)
{
    if (x2apic)
        wrmsr(X2(APIC_EOI), 0);
    else
        apic_write(APIC_EOI, 0);
}

static bool wait_for(volatile u32 *p, u32 want)
{
    u32 from = usec();
    while (*p < want && usec() - from < 1500000)
        cpu_relax();
    return *p >= want;
}

void ap_main(unsigned n)
{
    load_gdt_idt();
    if (!x2apic)
        apic_write(APIC_SVR, 0x1ff);
    apic_id[n] = my_apic_id();
    add(&alive[n], 1);
    u32 seen = job_no;
    sti();
    for (;;) {
        beats[n] = beats[n] + 1;
        if (job_no == seen) {
            cpu_relax();
            continue;
        }
        seen = job_no;
        job(n);
        add(&jobs_done, 1);
    }
}

/* Every processor does it at the same time. */
static bool together(void (*f)(unsigned cpu))
{
    jobs_done = 0;
    job = f;
    barrier();
    job_no = job_no + 1;
    sti();
    f(0);
    bool good = wait_for(&jobs_done, ncpus - 1);
    cli();
    return good;
}

static bool start_others(void)
{
    memcpy((void *)0x8000, ap_begin, (size_t)(ap_end - ap_begin));
    apic_write(APIC_SVR, 0x1ff);
    apic_id[0] = my_apic_id();
    apic_ipi(0, ICR_OTHERS | ICR_INIT | ICR_ASSERT);
    udelay(1000);
    expect("nobody runs after INIT alone", ap_next, 1);
    apic_ipi(0, ICR_OTHERS | ICR_STARTUP | ICR_ASSERT | 8);
    udelay(500);
    apic_ipi(0, ICR_OTHERS | ICR_STARTUP | ICR_ASSERT | 8);
    bool good = wait_for(&ap_next, ncpus);
    for (unsigned n = 1; n < ncpus; n++)
        good &= wait_for(&alive[n], 1);
    udelay(2000);
    ok(good && ap_next == ncpus, "%u processors have started", ap_next);
    unsigned distinct = 0;
    for (unsigned n = 0; n < ncpus; n++)
        distinct |= 1u << apic_id[n];
    expect("with APIC IDs from 0 on", distinct, (1u << ncpus) - 1);
    return good;
}

/* --- atomic operations --- */

static struct {
    u64 lo, hi;
} pair __attribute__((aligned(16)));
static volatile u32 counters[8] __attribute__((aligned(64)));
static volatile u32 lock_word, guarded;
static u8 split[8192] __attribute__((aligned(4096)));

static void count_add(unsigned cpu)
{
    for (unsigned n = 0; n < LOOPS; n++) {
        __asm__ volatile("lock incl %0" : "+m"(counters[0]) : : "cc");
        __asm__ volatile("lock subl $1, %0" : "+m"(counters[1]) : : "cc");
        u32 one = 1;
        __asm__ volatile("lock xaddl %1, %0" : "+m"(counters[2]), "+r"(one) : : "cc");
        u32 old = counters[3];
        while (!__sync_bool_compare_and_swap(&counters[3], old, old + 1))
            old = counters[3];
    }
}

static void count_bytes(unsigned cpu)
{
    volatile u8 *b = (volatile u8 *)&counters[4];
    for (unsigned n = 0; n < LOOPS; n++) {
        __asm__ volatile("lock incb %0" : "+m"(b[cpu]) : : "cc"); /* neighbours in one word */
        __asm__ volatile("lock addw $1, %0" : "+m"(*(volatile u16 *)&counters[5]) : : "cc");
        __asm__ volatile("lock btcl %1, %0" : "+m"(counters[6]) : "Ir"(cpu) : "cc");
    }
}

static void count_pair(unsigned cpu)
{
    for (unsigned n = 0; n < LOOPS / 2; n++) {
        bool done;
        u64 lo = pair.lo, hi = pair.hi;
        do
            __asm__ volatile("lock cmpxchg16b %0; setz %1"
                             : "+m"(pair), "=q"(done), "+a"(lo), "+d"(hi)
                             : "b"(lo + 1), "c"(hi + 3)
                             : "cc", "memory");
        while (!done);
    }
}

static volatile u64 eight;

static void count_eight(unsigned cpu)
{
    for (unsigned n = 0; n < LOOPS / 2; n++) {
        bool done;
        u32 lo = (u32)eight, hi = (u32)(eight >> 32);
        do
            __asm__ volatile("lock cmpxchg8b %0; setz %1"
                             : "+m"(eight), "=q"(done), "+a"(lo), "+d"(hi)
                             : "b"(lo + 1), "c"(hi + 2)
                             : "cc", "memory");
        while (!done);
    }
}

static void count_guarded(unsigned cpu)
{
    for (unsigned n = 0; n < LOOPS / 4; n++) {
        u32 held = 1;
        for (;;) {
            held = 1;
            __asm__ volatile("xchgl %1, %0" : "+m"(lock_word), "+r"(held) : : "memory");
            if (!held)
                break;
            cpu_relax();
        }
        guarded = guarded + 1;
        barrier();
        lock_word = 0;
    }
}

static void count_split(unsigned cpu)
{
    u32 *line = (u32 *)(split + 62), *page = (u32 *)(split + 4093);
    for (unsigned n = 0; n < LOOPS / 4; n++) {
        __asm__ volatile("lock incl %0" : "+m"(*line) : : "cc", "memory");
        __asm__ volatile("lock incl %0" : "+m"(*page) : : "cc", "memory");
    }
}

static void test_atomics(void)
{
    bool good = together(count_add);
    const u32 all = LOOPS * ncpus;
    ok(good && counters[0] == all && counters[1] == (u32)-all && counters[2] == all &&
           counters[3] == all,
       "LOCK INC, SUB, XADD, CMPXCHG: %x %x %x %x of %x", counters[0], -counters[1], counters[2],
       counters[3], all);
    good = together(count_bytes);
    const volatile u8 *b = (const volatile u8 *)&counters[4];
    bool bytes = true;
    for (unsigned n = 0; n < ncpus && n < 4; n++)
        bytes &= b[n] == (u8)LOOPS;
    ok(good && bytes && (u16)counters[5] == (u16)all && counters[6] == 0,
       "LOCK of bytes, words and bits");
    together(count_pair);
    ok(pair.lo == LOOPS / 2 * ncpus && pair.hi == 3 * pair.lo, "LOCK CMPXCHG16B: %lx", pair.lo);
    together(count_eight);
    ok((u32)eight == LOOPS / 2 * ncpus && eight >> 32 == 2ull * (u32)eight, "LOCK CMPXCHG8B: %lx",
       (word)eight);
    together(count_guarded);
    expect("XCHG as a spin lock", guarded, LOOPS / 4 * ncpus);
    together(count_split);
    ok(*(u32 *)(split + 62) == LOOPS / 4 * ncpus && *(u32 *)(split + 4093) == LOOPS / 4 * ncpus,
       "LOCK across a line and across a page: %x %x", *(u32 *)(split + 62), *(u32 *)(split + 4093));
}

/* --- memory order (8.2) --- */

static volatile u32 msg_data __attribute__((aligned(64))), msg_flag __attribute__((aligned(64)));
static volatile u32 msg_wrong;

static void pass_messages(unsigned cpu)
{
    if (cpu == 0) {
        for (u32 n = 1; n <= 15000; n++) {
            msg_data = n;
            barrier();
            msg_flag = n;
        }
    } else if (cpu == 1) {
        u32 f = 0;
        while (f < 15000) {
            f = msg_flag;
            barrier();
            if (msg_data < f)
                add(&msg_wrong, 1);
        }
    }
}

static volatile u32 sb_x __attribute__((aligned(64))), sb_y __attribute__((aligned(64)));
static volatile u32 sb_r[2], sb_go, sb_in;

static void store_buffers(unsigned cpu)
{
    if (cpu > 1)
        return;
    for (u32 n = 1; n <= 300; n++) {
        add(&sb_in, 1);
        while (sb_in < 2 * n)
            cpu_relax();
        if (cpu)
            sb_y = n;
        else
            sb_x = n;
        __asm__ volatile("mfence" : : : "memory");
        sb_r[cpu] = cpu ? sb_x : sb_y;
        add(&sb_go, 1);
        while (sb_go < 2 * n)
            cpu_relax();
        if (cpu == 0 && sb_r[0] < n && sb_r[1] < n)
            add(&msg_wrong, 1);
    }
}

static void test_order(void)
{
    ok(together(pass_messages) && !msg_wrong, "stores are seen in order: %u not", msg_wrong);
    msg_wrong = 0;
    ok(together(store_buffers) && !msg_wrong, "MFENCE orders a store before a load: %u not",
       msg_wrong);
}

/* --- IPIs --- */

static void on_ipi(struct frame *f)
{
    add(&ipis[whoami()], 1);
    eoi();
}

static void on_nmi(struct frame *f)
{
    add(&nmis[whoami()], 1);
}

static u32 total(volatile u32 *p)
{
    u32 sum = 0;
    for (unsigned n = 0; n < ncpus; n++)
        sum += p[n];
    return sum;
}

static void send(const char *name, u32 dest, u32 icr, bool self, bool others)
{
    u32 want = (self ? 1 : 0) + (others ? ncpus - 1 : 0);
    for (unsigned n = 0; n < ncpus; n++)
        ipis[n] = 0;
    sti();
    apic_ipi(dest, icr | VEC_IPI);
    u32 from = usec();
    while (total(ipis) < want && usec() - from < 2000000)
        cpu_relax();
    udelay(300);
    cli();
    bool good = ipis[0] == self && total(ipis) == want;
    for (unsigned n = 1; n < ncpus; n++)
        good &= ipis[n] == others;
    ok(good, "IPI, %s: %u of %u", name, total(ipis), want);
}

static void set_ldr(unsigned cpu)
{
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 1u << (24 + cpu));
}

/* Each sends to the next, waits for the answer's answer... */
static volatile u32 ring_no;

static void ring(unsigned cpu)
{
    u32 next = (cpu + 1) % ncpus;
    for (u32 n = 0; n < 200; n++) {
        u32 mine = n * ncpus + cpu;
        while (ring_no < mine)
            cpu_relax();
        u32 before = ipis[next];
        apic_ipi(apic_id[next], VEC_IPI);
        while (ipis[next] == before)
            cpu_relax();
        ring_no = mine + 1;
    }
}

static void halt_once(unsigned cpu)
{
    if (cpu)
        __asm__ volatile("sti; hlt" : : : "memory");
}

static void test_ipis(void)
{
    handler[VEC_IPI] = on_ipi;
    handler[NMI] = on_nmi;
    together(set_ldr);
    send("all but self", 0, ICR_OTHERS, false, true);
    send("all", 0, ICR_ALL, true, true);
    send("self", 0, ICR_SELF, true, false);
    send("physical broadcast", 0xff, 0, true, true);
    send("logical, everybody", (1u << ncpus) - 1, ICR_LOGICAL, true, true);
    send("logical, the others", (1u << ncpus) - 2, ICR_LOGICAL, false, true);
    for (unsigned n = 1; n < ncpus; n++) {
        ipis[n] = 0;
        apic_ipi(apic_id[n], VEC_IPI);
        ok(wait_for(&ipis[n], 1), "IPI to processor %u", n);
    }
    for (unsigned n = 0; n < ncpus; n++)
        ipis[n] = 0;
    sti();
    apic_ipi((1u << ncpus) - 1, ICR_LOGICAL | ICR_LOWEST | VEC_IPI);
    u32 from = usec();
    while (!total(ipis) && usec() - from < 1000000)
        cpu_relax();
    udelay(500);
    cli();
    expect("IPI, lowest priority: to one of them", total(ipis), 1);

    apic_ipi(0, ICR_OTHERS | ICR_NMI);
    bool good = true;
    for (unsigned n = 1; n < ncpus; n++)
        good &= wait_for(&nmis[n], 1);
    ok(good && nmis[0] == 0, "NMI IPI to the others: %u", total(nmis));
    for (unsigned n = 0; n < ncpus; n++)
        ipis[n] = 0;
    good = together(ring);
    ok(good && total(ipis) == 200 * ncpus, "IPIs in a ring: %u of %u", total(ipis), 200 * ncpus);

    jobs_done = 0;
    job = halt_once;
    job_no = job_no + 1;
    udelay(2000);
    expect("HLT sleeps", jobs_done, 0);
    /* More than one: it may come to a processor that is on its way to the HLT still. */
    for (unsigned n = 0; n < 1000 && jobs_done < ncpus - 1; n++) {
        apic_ipi(0, ICR_OTHERS | VEC_IPI);
        udelay(1000);
    }
    expect("and an IPI wakes", jobs_done, ncpus - 1);
}

/* --- TLB shoot-down --- */

extern u64 boot_pml4[512], boot_pdpt[512], boot_pd[2048];
static u64 page_table[512] __attribute__((aligned(4096)));
static volatile u32 page_data[2][1024] __attribute__((aligned(4096)));
static volatile u32 flushed, shoot_stop, shoot_wrong, shoot_want;
#define WINDOW (512ul << 21) /* 1 GiB: page directory 1 */

static void on_tlb(struct frame *f)
{
    invlpg((void *)WINDOW);
    add(&flushed, 1);
    eoi();
}

static void shoot(unsigned cpu)
{
    volatile u32 *w = (volatile u32 *)WINDOW;
    if (cpu) {
        while (!shoot_stop) {
            u32 floor = shoot_want;
            barrier();
            if (*w < floor)
                add(&shoot_wrong, 1);
        }
        return;
    }
    for (u32 n = 1; n <= 60; n++) {
        page_data[n & 1][0] = n;
        page_table[0] = (word)page_data[n & 1] | 7;
        flushed = 0;
        invlpg((void *)WINDOW);
        apic_ipi(0, ICR_OTHERS | VEC_TLB);
        while (flushed < ncpus - 1)
            cpu_relax();
        shoot_want = n; /* from here on nobody may see what was before */
    }
    shoot_stop = 1;
}

static void flush_all(unsigned cpu)
{
    write_cr3(read_cr3());
}

static void test_shootdown(void)
{
    handler[VEC_TLB] = on_tlb;
    page_table[0] = (word)page_data[0] | 7;
    boot_pd[512] = (word)page_table | 7;
    together(flush_all);
    bool good = together(shoot);
    ok(good && !shoot_wrong, "TLB shoot-down: %u stale reads", shoot_wrong);
}

/* --- cross-modifying code (8.1.3) --- */

static u8 code[64] __attribute__((aligned(64)));
static volatile u32 code_no, code_acks, code_wrong;

static void cross_modify(unsigned cpu)
{
    for (u32 n = 1; n <= 200; n++) {
        if (cpu == 0) {
            *(volatile u32 *)(code + 1) = n;
            code_acks = 0;
            barrier();
            code_no = n;
            while (code_acks < ncpus - 1)
                cpu_relax();
        } else {
            u32 r[4];
            while (code_no < n)
                cpu_relax();
            cpuid(0, 0, r); /* serializes */
            u32 v;
            __asm__ volatile("call *%1" : "=a"(v) : "r"(code) : "memory");
            if (v != n)
                add(&code_wrong, 1);
            add(&code_acks, 1);
        }
    }
}

static void test_cross(void)
{
    code[0] = 0xb8; /* mov $n, %eax; ret */
    code[5] = 0xc3;
    bool good = together(cross_modify);
    ok(good && !code_wrong, "code modified by another processor: %u wrong", code_wrong);
}

/* --- INIT stops a processor, SIPI starts it afresh --- */

static void test_restart(void)
{
    unsigned last = ncpus - 1;
    apic_ipi(apic_id[last], ICR_INIT | ICR_ASSERT);
    udelay(2000);
    u32 a = beats[last];
    udelay(3000);
    u32 b = beats[last];
    ok(a == b, "INIT stops a processor: %u beats", b - a);
    ap_next = last;
    barrier();
    apic_ipi(apic_id[last], ICR_STARTUP | ICR_ASSERT | 8);
    ok(wait_for(&alive[last], 2), "SIPI starts it again");
    apic_ipi(apic_id[last], ICR_STARTUP | ICR_ASSERT | 8);
    udelay(3000);
    expect("a SIPI to a running processor is ignored", alive[last], 2);
    u32 starts = 2;
    for (unsigned n = 0; n < 20 && alive[last] == starts; n++) {
        ap_next = last;
        apic_ipi(apic_id[last], ICR_INIT | ICR_ASSERT);
        apic_ipi(apic_id[last], ICR_STARTUP | ICR_ASSERT | 8);
        wait_for(&alive[last], ++starts);
    }
    expect("a SIPI right after the INIT is not lost", alive[last], 22);
}

/* --- x2APIC --- */

static void go_x2apic(unsigned cpu)
{
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x400);
}

static void x2_ipi(u32 dest, u32 icr)
{
    __asm__ volatile("mfence" : : : "memory");
    wrmsr(X2(APIC_ICR), (u64)dest << 32 | icr);
}

static void test_x2apic(void)
{
    if (!cpu_has(1, 2, 21)) {
        skip("x2APIC", "not offered");
        return;
    }
    together(go_x2apic);
    x2apic = true;
    for (unsigned n = 0; n < ncpus; n++)
        ipis[n] = 0;
    bool good = true;
    for (unsigned n = 1; n < ncpus; n++) {
        x2_ipi(apic_id[n], VEC_IPI);
        good &= wait_for(&ipis[n], 1);
    }
    ok(good, "x2APIC: IPI to each");
    x2_ipi((1u << ncpus) - 2, ICR_LOGICAL | VEC_IPI);
    for (unsigned n = 1; n < ncpus; n++)
        good &= wait_for(&ipis[n], 2);
    ok(good, "x2APIC: logical destination");
    x2_ipi(0xffffffff, VEC_IPI);
    for (unsigned n = 1; n < ncpus; n++)
        good &= wait_for(&ipis[n], 3);
    ok(good, "x2APIC: broadcast");
    sti();
    wrmsr(0x83f, VEC_IPI);
    cli();
    ok(ipis[0] >= 1, "x2APIC: self IPI");
}

int main(void)
{
    ncpus = cmdline_number("cpus", 2);
    if (start_others()) {
        test_atomics();
        test_order();
        test_ipis();
        test_shootdown();
        test_cross();
        test_restart();
        test_x2apic();
    }
    return 0;
}
