/*
 * guest.h - what the tiny guests share: a console, a way to run a piece of code in any mode until
 * it traps, and the tables of a PC's processor.
 *
 * A guest is one C file compiled freestanding for 32- or 64-bit protected mode and started by
 * multiboot (start32.S, start64.S). main() makes claims with ok() and expect(), each of which
 * prints a line "ok TEXT" or "not ok TEXT" on COM1; leaving goes through port 0xf4.
 */
#ifndef POPF_TEST_GUEST_H
#define POPF_TEST_GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned long word; /* a register */

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n)        (1ull << (n))
#define PAGE          4096u

#ifdef __x86_64__
#define IS64  1
#define NGPR  16
#define AWORD ".quad"
#define CSIZE "64"
#else
#define IS64  0
#define NGPR  8
#define AWORD ".long"
#define CSIZE "32"
#endif

/* --- the manual's names (SDM vol. 3A, 2.3 to 2.5, table 6-1; vol. 3B, chapter 17) --- */

enum { AX, CX, DX, BX, SP, BP, SI, DI };
enum { DE, DB, NMI, BP_, OF, BR, UD, NM, DF, XX9, TS, NP, SS_, GP, PF, XX15, MF, AC, MC, XM };

#define FL_CF   (1u << 0)
#define FL_ONE  (1u << 1)
#define FL_ZF   (1u << 6)
#define FL_TF   (1u << 8)
#define FL_IF   (1u << 9)
#define FL_DF   (1u << 10)
#define FL_OF   (1u << 11)
#define FL_IOPL (3u << 12)
#define FL_NT   (1u << 14)
#define FL_RF   (1u << 16)
#define FL_VM   (1u << 17)
#define FL_AC   (1u << 18)
#define FL_VIF  (1u << 19)
#define FL_VIP  (1u << 20)
#define FL_ID   (1u << 21)

#define CR0_PE 1u
#define CR0_MP 2u
#define CR0_EM 4u
#define CR0_TS 8u
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)

#define CR4_VME        (1u << 0)
#define CR4_PVI        (1u << 1)
#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_PGE        (1u << 7)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define DR6_BD (1u << 13)
#define DR6_BS (1u << 14)
#define DR6_BT (1u << 15)

#define MSR_TSC            0x10
#define MSR_APIC_BASE      0x1b
#define MSR_SYSENTER_CS    0x174
#define MSR_SYSENTER_ESP   0x175
#define MSR_SYSENTER_EIP   0x176
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_SFMASK         0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define EFER_SCE           1u
#define EFER_LME           (1u << 8)
#define EFER_LMA           (1u << 10)
#define EFER_NXE           (1u << 11)

/* --- console and verdict --- */

void print(const char *fmt, ...)
    __attribute__((format(printf, 1, 2))); /* %s %c %d %u %x %lx %llx */
void ok(bool cond, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void expect(const char *name, u64 got, u64 want);
void skip(const char *name, const char *why);
void known(bool cond, const char *name, const char *why); /* may fail: TAP's TODO */
void leave(void) __attribute__((noreturn));               /* with success if nothing was "not ok" */
unsigned failures(void);

/* The boot loader's command line, and the number that follows "name=" in it. */
extern const char *cmdline;
u32 cmdline_number(const char *name, u32 otherwise);

int main(void);

/* --- running code until it traps --- */

/* Registers of a piece of code, and how it ended. start32.S and start64.S know this layout. */
struct ctx {
    word gpr[NGPR];
    word ip, cs, flags, ss;
    word ds, es, fs, gs; /* FS and GS are loaded by 32-bit guests only */
    word vec, err, cr2;
    word frame; /* the stack pointer at the hardware's frame */
    word has_err;
};

/* Ends a snippet: any exception or interrupt that has no handler does. */
#define VEC_DONE 0x81

/* A piece of code: setup, then the instruction of interest, then INT VEC_DONE. */
struct snip {
    word start, at, end;
};
#define SNIP_BITS(name, bits, setup, insn)                                                         \
    __asm__(".pushsection .snip, \"awx\"\n.balign 16\n.code" bits "\n991:" setup "\n992:" insn     \
            "\n993:int $0x81\n.balign 16\n.globl " #name "\n" #name ":" AWORD                      \
            " 991b, 992b, 993b\n.popsection\n.code" CSIZE "\n");                                   \
    extern const struct snip name
#define SNIP(name, setup, insn) SNIP_BITS(name, CSIZE, setup, insn)

/* Flat segments, ring 0 or 3, a stack of their own, at a snippet's start. IF is set in ring 3
 * alone, as in any program: bt may then execute it directly. */
void ctx_init(struct ctx *c, const struct snip *s, unsigned ring);

/* Goes there; comes back at the first trap that no handler takes. */
void run(struct ctx *c);

/* What the trap stubs push. */
struct frame {
#if IS64
    word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, sp_, bx, dx, cx, ax;
#else
    word gs, fs, es, ds, di, si, bp, sp_, bx, dx, cx, ax;
#endif
    word vec, err, ip, cs, flags, sp, ss; /* 32-bit: sp, ss only from another privilege */
    word v86_es, v86_ds, v86_fs, v86_gs;
};

/* Takes a vector; the code interrupted goes on afterwards. NULL: it ends a run(). */
typedef void handler_fn(struct frame *f);
extern handler_fn *handler[256];

/* True between run() and the trap that ends it. A handler ends it by clearing itself and trap(f).
 */
bool is_running(void);
void trap(struct frame *f);

/* --- descriptor tables (SDM vol. 3A, 3.4.5, 6.11, 7.2) --- */

#define SEL_CODE0    0x08
#define SEL_DATA0    0x10
#define SEL_CODE3_32 0x1b /* this order suits SYSRET and SYSEXIT */
#define SEL_DATA3    0x23
#define SEL_CODE3_64 0x2b
#define SEL_DATA3B   0x33
#define SEL_CODE0_32 0x38
#define SEL_TSS      0x40 /* 16 bytes in long mode */
#define SEL_LDT      0x50
#define SEL_FREE     0x60 /* from here on: a test's own */
#define SEL_CODE3    (IS64 ? SEL_CODE3_64 : SEL_CODE3_32)
#define GDT_N        64

extern u64 gdt[GDT_N];
extern word idt[256 * 2];          /* 8 or 16 bytes each */
extern u8 *const kernel_stack_top; /* RSP0 */

#define ATTR_DATA   0x93u
#define ATTR_CODE   0x9bu
#define ATTR_DPL(n) ((unsigned)(n) << 5)
#define ATTR_L      0x2000u
#define ATTR_DB     0x4000u
#define ATTR_G      0x8000u

/* attr: access byte in bits 0-7; AVL, L, D/B, G in bits 12-15; the limit is the raw 20 bits. */
u64 make_desc(u32 base, u32 limit, u32 attr);

enum gate {
    GATE_TASK = 5,
    GATE_CALL16 = 4,
    GATE_INT16 = 6,
    GATE_TRAP16 = 7,
    GATE_CALL = 0xc,
    GATE_INT = 0xe,
    GATE_TRAP = 0xf
};
void set_gate(unsigned vec, unsigned sel, word off, unsigned type, unsigned dpl, unsigned ist);
void reset_gate(unsigned vec); /* as the library had it: interrupt gate, DPL 3, our stub */

#if IS64
struct tss {
    u32 r0;
    u64 sp[3], r1, ist[7], r2;
    u16 r3, iomap;
    u8 bitmap[8192 + 1];
} __attribute__((packed));
#else
struct tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi,
        edi, es, cs, ss, ds, fs, gs, ldt;
    u16 t, iomap;
    u8 redirect[32]; /* CR4.VME's bitmap stands before the I/O bitmap */
    u8 bitmap[8192 + 1];
} __attribute__((packed));
#endif
extern struct tss tss;
void load_gdt_idt(void); /* and the kernel's segments; for processors that come later */
void load_tr(void);      /* sets the descriptor up anew and loads it */

/* --- instructions --- */

static inline void outb(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outl(u16 port, u32 v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

#define CR_ACCESS(n)                                                                               \
    static inline word read_cr##n(void)                                                            \
    {                                                                                              \
        word v;                                                                                    \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                             \
        return v;                                                                                  \
    }                                                                                              \
    static inline void write_cr##n(word v)                                                         \
    {                                                                                              \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                                 \
    }
CR_ACCESS(0)
CR_ACCESS(2)
CR_ACCESS(3)
CR_ACCESS(4)
#if IS64
CR_ACCESS(8)
#endif

#define DR_ACCESS(n)                                                                               \
    static inline word read_dr##n(void)                                                            \
    {                                                                                              \
        word v;                                                                                    \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v));                                          \
        return v;                                                                                  \
    }                                                                                              \
    static inline void write_dr##n(word v)                                                         \
    {                                                                                              \
        __asm__ volatile("mov %0, %%dr" #n : : "r"(v) : "memory");                                 \
    }
DR_ACCESS(0)
DR_ACCESS(1)
DR_ACCESS(2)
DR_ACCESS(3)
DR_ACCESS(6)
DR_ACCESS(7)

static inline u64 rdmsr(u32 msr)
{
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
    return lo | (u64)hi << 32;
}

static inline void wrmsr(u32 msr, u64 v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

static inline void cpuid(u32 leaf, u32 sub, u32 r[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "a"(leaf), "c"(sub));
}

/* One bit of CPUID: reg 0 EAX ... 3 EDX. */
static inline bool cpu_has(u32 leaf, unsigned reg, unsigned bit)
{
    u32 r[4];
    cpuid(leaf & 0x80000000u, 0, r);
    if (r[0] < leaf)
        return false;
    cpuid(leaf, 0, r);
    return r[reg] >> bit & 1;
}

static inline u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return lo | (u64)hi << 32;
}

static inline void invlpg(const volatile void *p)
{
    __asm__ volatile("invlpg %0" : : "m"(*(const volatile char *)p) : "memory");
}

#define cli()         __asm__ volatile("cli" : : : "memory")
#define sti()         __asm__ volatile("sti" : : : "memory")
#define barrier()     __asm__ volatile("" : : : "memory")
#define cpu_relax()   __asm__ volatile("pause" : : : "memory")
#define sti_hlt_cli() __asm__ volatile("sti; hlt; cli" : : : "memory")

/* Writes an MSR / reads one; the vector of the fault, or -1. */
int try_wrmsr(u32 msr, u64 v);
int try_rdmsr(u32 msr, u64 *v);
/* MOV to CR0, CR3, CR4 likewise; the old value is put back unless it faulted. */
int try_cr(unsigned n, word v);

void *memset(void *d, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);

/* A free-running microsecond clock from the ACPI PM timer (24 bits at least), for time limits. */
u32 usec(void);
void udelay(u32 us);

#endif
