/*
 * hostile.c - a guest that wants the monitor's life: random bytes run in ring 0, 3 and
 * compatibility mode, with random registers, page tables, descriptors, ports, device registers and
 * MSRs. "seed=N" on the command line. However it ends is right, as long as the monitor itself goes
 * on.
 */
#include "apic.h"

#define ARENA  0x800000ul /* 8 MiB: what code and data there may be scribbled over */
#define CODE_N 4096u

extern u64 boot_pml4[512], boot_pdpt[512], boot_pd[2048];

static u64 state;

static u64 rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1dull;
}

static u32 below(u32 n)
{
    return (u32)(rnd() >> 32) % n;
}

/* Values near to where checks are. */
static u64 nasty(void)
{
    static const u64 edge[] = {0,
                               1,
                               ~0ull,
                               0x7fffffff,
                               0x80000000,
                               0xffffffff,
                               0x7fffffffffff,
                               0x800000000000,
                               0xffff800000000000,
                               0xffff7fffffffffff,
                               0xfff,
                               0x1000,
                               0xfee00000,
                               0xfec00000,
                               0xfed00000,
                               0x100000000,
                               0xa0000,
                               0xc0000,
                               0xfffffff0,
                               BIT(52),
                               BIT(63)};
    switch (below(4)) {
    case 0:
        return edge[below(ARRAY_SIZE(edge))] + below(16) - 8;
    case 1:
        return ARENA + below(0x100000);
    case 2:
        return BIT(below(64)) - below(9);
    default:
        return rnd() >> below(64);
    }
}

/* --- instruction bytes: noise, and the opcodes that matter --- */

static const u8 system_op[][4] = {
    {0x0f, 0x01},
    {0x0f, 0x00},
    {0x0f, 0xc7},
    {0x0f, 0xae},
    {0x0f, 0x20},
    {0x0f, 0x22},
    {0x0f, 0x21},
    {0x0f, 0x23},
    {0x0f, 0x30},
    {0x0f, 0x32},
    {0x0f, 0x05},
    {0x0f, 0x07},
    {0x0f, 0x34},
    {0x0f, 0x35},
    {0x48, 0xcf},
    {0xcf},
    {0xcb},
    {0xca},
    {0xcd},
    {0xcc},
    {0xf1},
    {0xff},
    {0x8e},
    {0x9d},
    {0x0f, 0xb2},
    {0x0f, 0xb4},
    {0xfa},
    {0xfb},
    {0xec},
    {0xee},
    {0xed},
    {0xef},
    {0x6c},
    {0x6e},
    {0xf3, 0xa4},
    {0xf3, 0xaa},
    {0xf2, 0xae},
    {0xf3, 0x6f},
    {0xf3, 0x6d},
    {0xc8},
    {0xc9},
    {0x0f, 0x0b},
    {0x0f, 0xa2},
    {0x66, 0x0f, 0x38, 0x82},
    {0x0f, 0x01, 0xf8},
    {0x0f, 0x01, 0xd1},
    {0x0f, 0x08},
    {0x0f, 0x09},
    {0xf0, 0x0f, 0xc7},
    {0x62},
    {0xc4},
    {0xc5},
    {0xea},
    {0x9a},
    {0xd9},
    {0xdd},
    {0xdf},
    {0x9b},
};

static void fill_code(u8 *p, unsigned n)
{
    while (n > 24) {
        unsigned len = 1 + below(12);
        for (unsigned k = 0; k < len; k++)
            p[k] = (u8)(rnd() >> 24);
        if (below(3)) {
            const u8 *op = system_op[below(ARRAY_SIZE(system_op))];
            unsigned at = below(3) ? 0 : 1; /* behind a random prefix, perhaps */
            for (unsigned k = 0; k < 4 && (k == 0 || op[k]); k++)
                p[at + k] = op[k];
        }
        p += len;
        n -= len;
    }
}

/* --- what the code finds --- */

static void scribble_tables(void)
{
    for (unsigned n = 0; n < 8; n++)
        gdt[SEL_FREE / 8 + below(GDT_N - SEL_FREE / 8)] =
            below(2) ? rnd() : rnd() | 0x0000900000000000;
    u64 e = rnd() & ~BIT(63);
    switch (below(4)) { /* linear addresses above what the kernel uses */
    case 0:
        boot_pml4[1 + below(511)] = nasty();
        break;
    case 1:
        boot_pml4[1 + below(511)] = (word)boot_pml4 | 7; /* the table maps itself */
        break;
    case 2:
        boot_pdpt[4 + below(508)] = e;
        break;
    default:
        boot_pd[64 + below(512)] = (boot_pd[64 + below(512)] & ~0xfffull) | (e & 0xfff);
    }
    write_cr3(read_cr3());
}

static void poke_devices(void)
{
    static const u16 port[] = {0x20,  0x21,  0xa0,  0xa1,  0x40,  0x41,   0x42,  0x43,  0x60,
                               0x61,  0x64,  0x70,  0x71,  0x80,  0x2f8,  0x2f9, 0x2fa, 0x2fb,
                               0x2fc, 0x3fa, 0x3fb, 0x510, 0x511, 0x514,  0x518, 0x600, 0x602,
                               0x608, 0x60c, 0xcf8, 0xcfc, 0xcfe, 0xffff, 0x92};
    u16 p = below(4) ? port[below(ARRAY_SIZE(port))] : (u16)rnd();
    u32 v = (u32)nasty();
    if (p == 0xf4 || p == 0xcf9 || p == 0x604 || p == 0x605 || (p == 0x64 && (v & 0xf0) == 0xf0) ||
        (p == 0x92 && v & 1))
        return; /* these would end the fun */
    switch (below(5)) {
    case 0:
        outb(p, (u8)v);
        break;
    case 1:
        __asm__ volatile("outw %w0, %1" : : "a"(v), "d"(p));
        break;
    case 2:
        if (p != 0xcf8 - 2 && (p < 0x5fc || p > 0x605))
            outl(p, v & ~0x20002000u);
        break;
    case 3:
        inb(p);
        break;
    default:
        __asm__ volatile("inl %1, %%eax" : : "a"(0), "d"(p));
    }
}

SNIP(poke, "", "mov %eax, (%rbx)");
SNIP(peek, "", "mov (%rbx), %rax");

static void poke_memory(void)
{
    static const u32 page[] = {APIC_BASE, IOAPIC,     0xfed00000, 0xa0000,
                               0xe0000,   0xfffff000, 0xf0000000};
    struct ctx c;
    u32 at = page[below(ARRAY_SIZE(page))] + below(0x400);
    u32 v = (u32)nasty();
    if (at == APIC_BASE + APIC_ICR && (v & 0x700) == ICR_INIT)
        v &= ~0x700u;
    ctx_init(&c, below(2) ? &poke : &peek, 0);
    c.gpr[BX] = at;
    c.gpr[AX] = v;
    run(&c);
}

static void poke_msr(void)
{
    static const u32 range[] = {0,          0x170,      0x200,      0x250,      0x2f0,
                                0x400,      0x6e0,      0x800,      0xc0000080, 0xc0000100,
                                0xc0010000, 0x40000000, 0x4b564d00, 0xd90,      0x1d0};
    u32 msr = range[below(ARRAY_SIZE(range))] + below(32);
    u64 v;
    if (try_rdmsr(msr, &v) < 0 && msr != MSR_EFER && msr != MSR_APIC_BASE)
        try_wrmsr(msr, below(2) ? v ^ BIT(below(64)) : nasty());
}

/* --- a way out of endless loops: the 8254 by way of LINT0 as an NMI, every few milliseconds --- */

static u8 nmi_stack[4096], df_stack[4096];

static void on_nmi(struct frame *f)
{
    if (!is_running())
        return;
    handler[NMI] = NULL;
    trap(f);
}

static void on_iret(struct frame *f)
{
}

static void set_ist_gate(unsigned vec, unsigned ist)
{
    u64 lo = idt[vec * 2];
    set_gate(vec, SEL_CODE0, (lo & 0xffff) | (lo >> 32 & 0xffff0000), GATE_INT, 3, ist);
}

static void start_watchdog(void)
{
    tss.ist[0] = (word)nmi_stack + sizeof(nmi_stack);
    tss.ist[1] = (word)df_stack + sizeof(df_stack);
    set_ist_gate(NMI, 1);
    set_ist_gate(DF, 2);
    handler[NMI] = on_nmi;
    handler[0x60] = on_iret;
    __asm__ volatile("int $0x60" : : : "memory"); /* its IRET ends the blocking of NMIs */
    wrmsr(MSR_APIC_BASE, 0xfee00900);
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_LINT0, 0x400);
    pic_setup(1);
    pit_start(0, 12000);
}

/* --- one go --- */

static unsigned steps;

static void on_step(struct frame *f)
{
    if (++steps < 400 && below(8))
        f->flags |= FL_TF; /* go on */
    else
        f->flags &= ~(word)FL_TF;
}

static void run_noise(void)
{
    struct ctx c;
    u8 *code = (u8 *)ARENA + (below(CODE_N) & ~15u);
    fill_code(code, 512);
    memset(code + 512, 0xcc, 64);
    ctx_init(&c, NULL, below(24) ? 3 : 0); /* ring 0 does not live long */
    for (unsigned n = 0; n < 16; n++)
        if (n != SP)
            c.gpr[n] = nasty();
    if (below(4) == 0 && c.cs & 3)
        c.gpr[SP] = nasty();
    c.ip = (word)code;
    if (c.cs & 3 && below(3) == 0)
        c.cs = SEL_CODE3_32;
    c.flags = FL_ONE | (rnd() & (FL_CF | FL_ZF | FL_DF | FL_NT | FL_AC | FL_IOPL | FL_RF | FL_ID));
    if (below(4) == 0)
        c.flags |= FL_TF;
    steps = 0;
    run(&c);
}

/* What the noise may have changed, so that the next go has a chance. */
static void mend(void)
{
    __asm__ volatile("clts; cld; fninit");
    write_dr7(0x400);
    write_cr4((read_cr4() & ~(word)(CR4_SMAP | CR4_SMEP | CR4_PCIDE)) | CR4_PAE);
    write_cr0((read_cr0() | CR0_NE) & ~(word)(CR0_EM | CR0_TS | CR0_AM | CR0_WP | CR0_CD | CR0_NW));
    for (unsigned v = 0; v < 256; v++)
        reset_gate(v);
    tss.sp[0] = (word)kernel_stack_top;
    load_tr();
    start_watchdog();
}

int main(void)
{
    u32 ms = cmdline_number("ms", 1000);
    state = 0x9e3779b97f4a7c15ull * (cmdline_number("seed", 1) + 1);
    handler[DB] = on_step;
    mend();
    u32 from = usec();
    unsigned n = 0;
    for (; usec() - from < ms * 1000; n++) {
        unsigned what = below(16);
        if (what == 0)
            scribble_tables();
        else if (what == 1)
            poke_msr();
        else if (what < 4)
            poke_memory();
        else if (what < 8)
            poke_devices();
        else
            run_noise();
        mend();
    }
    ok(true, "still alive after %u rounds", n);
    return 0;
}
