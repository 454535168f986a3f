/*
 * micro.c - the micro-operations of Adams and Agesen, "A Comparison of Software and Hardware
 * Techniques for x86 Virtualization", ASPLOS 2006, in cycles of the time stamp counter.
 *
 * Each is a loop over one operation in ring 0 (syscall: ring 3); the loop's own cycle or two count.
 * Prints `micro NAME CYCLES`, cycles in tenths, the best of some rounds; ends through port 0xf4.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define COM1         0x3f8
#define EXIT_PORT    0xf4
#define MSR_STAR     0xc0000081
#define MSR_LSTAR    0xc0000082
#define MSR_FMASK    0xc0000084
#define ROUND_CYCLES 40000000ull
#define ROUNDS       7

/* start.S */
extern u64 pd[512];
void pgfault_entry(void), divzero_entry(void), other_entry(void), syscall_entry(void);
void user_run(u64 n), nothing(void);
void micro_main(void), micro_unexpected(void);

static void outb(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void wrmsr(u32 msr, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)));
}

static u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}

static void print(const char *s)
{
    for (; *s; s++) {
        while (!(inb(COM1 + 5) & 0x20))
            ;
        outb(COM1, *s);
    }
}

static void print_tenths(u64 n)
{
    char text[24], *p = text + sizeof(text);
    *--p = 0;
    *--p = '0' + n % 10;
    *--p = '.';
    n /= 10;
    do
        *--p = '0' + n % 10;
    while (n /= 10);
    print(p);
}

static void leave(u32 status)
{
    __asm__ volatile("outl %0, %1" : : "a"(status), "Nd"((u16)EXIT_PORT));
    for (;;)
        __asm__ volatile("cli; hlt");
}

void micro_unexpected(void)
{
    print("micro error: an exception that nobody wanted\n");
    leave(1);
}

/* --- interrupt descriptors --- */

struct gate {
    u16 offset0, selector, flags, offset16;
    u32 offset32, zero;
};

static void set_gate(struct gate *g, void (*entry)(void))
{
    u64 a = (u64)entry;
    *g = (struct gate){(u16)a, 0x08, 0x8e00, (u16)(a >> 16), (u32)(a >> 32), 0};
}

static void set_entries(struct gate idt[32])
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) ptr = {32 * sizeof(struct gate) - 1, (u64)idt};
    for (int i = 0; i < 32; i++)
        set_gate(&idt[i], other_entry);
    set_gate(&idt[0], divzero_entry);
    set_gate(&idt[14], pgfault_entry);
    __asm__ volatile("lidt %0" : : "m"(ptr));
    wrmsr(MSR_STAR, 0x1bull << 48 | 0x08ull << 32);
    wrmsr(MSR_LSTAR, (u64)syscall_entry);
    wrmsr(MSR_FMASK, 0);
}

/* --- the operations --- */

static void do_in(u64 n)
{
    __asm__ volatile("1: inb $0x80, %%al; dec %0; jnz 1b" : "+r"(n) : : "eax");
}

static void do_cr8wr(u64 n)
{
    __asm__ volatile("1: mov %1, %%cr8; dec %0; jnz 1b" : "+r"(n) : "r"(0ull));
}

static void do_callret(u64 n)
{
    __asm__ volatile("1: call nothing; dec %0; jnz 1b" : "+r"(n) : : "memory");
}

/* Behind the first GiB nothing is mapped. */
static void do_pgfault(u64 n)
{
    __asm__ volatile("1: movb (%%rdi), %%al; dec %0; jnz 1b"
                     : "+r"(n)
                     : "D"(0x40000000ull)
                     : "eax");
}

static void do_divzero(u64 n)
{
    __asm__ volatile("1: div %%ecx; dec %0; jnz 1b" : "+r"(n) : "a"(1), "d"(0), "c"(0));
}

#define WINDOW                                                                                     \
    0x3fe00000ull /* the last 2 MiB of the first GiB go through a page table of 4 KiB              \
                   */

/* Writes an entry of a page table in use: two frames in turn. */
static void do_ptemod(u64 n)
{
    static u64 table[512] __attribute__((aligned(4096)));
    u64 pte = 0x100007;
    table[0] = pte;
    pd[WINDOW >> 21] = (u64)table | 7;
    __asm__ volatile("invlpg (%0)" : : "r"(WINDOW) : "memory");
    *(volatile u8 *)WINDOW;
    __asm__ volatile("1: xor $0x1000, %1; mov %1, (%2); dec %0; jnz 1b"
                     : "+r"(n), "+r"(pte)
                     : "r"(table)
                     : "memory");
    /* What stands there last is what counts. */
    __asm__ volatile("invlpg (%0)" : : "r"(WINDOW) : "memory");
    if (*(volatile u64 *)WINDOW != *(volatile u64 *)(pte & ~0xfffull))
        print("micro error: ptemod: the old frame is still mapped\n");
}

static u64 cycles(void (*op)(u64 n), u64 n)
{
    u64 begin = rdtsc();
    op(n);
    return rdtsc() - begin;
}

static void measure(const char *name, void (*op)(u64 n))
{
    u64 n = 64, best = ~0ull;
    while (cycles(op, n) < ROUND_CYCLES)
        n *= 2;
    for (int i = 0; i < ROUNDS; i++) {
        u64 c = cycles(op, n) * 10 / n;
        best = c < best ? c : best;
    }
    print("micro ");
    print(name);
    print(" ");
    print_tenths(best);
    print("\n");
}

void micro_main(void)
{
    struct gate idt[32];
    set_entries(idt);
    measure("syscall", user_run);
    measure("in", do_in);
    measure("cr8wr", do_cr8wr);
    measure("call/ret", do_callret);
    measure("pgfault", do_pgfault);
    measure("divzero", do_divzero);
    measure("ptemod", do_ptemod);
    print("micro end\n");
    leave(0);
}
