/*
 * lapic.h - the local APIC (Intel SDM vol. 3, "Advanced Programmable Interrupt Controller"), one
 * per virtual CPU, and the bus that carries messages between them, the I/O APIC and MSI.
 *
 * Both faces are here: xAPIC (a 4 KiB page of registers) and x2APIC (MSRs 0x800-0x8ff). A LAPIC
 * knows no CPU: it drives wires given to it as struct lapic_ops. Everything is called under the
 * machine's device lock, and the ops are called back under it: they must be cheap and must not
 * take that lock.
 */
#ifndef POPF_LAPIC_H
#define POPF_LAPIC_H

#include "base/base.h"
#include "base/clock.h"
#include "base/state.h"

#define LAPIC_MAX          255 /* xAPIC ids 0..254; 255 is broadcast */
#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define LAPIC_PAGE_SIZE    0x1000

/* The timer's input clock, before its divider: 1 GHz of guest time. For CPUID 0x15 and 0x40000010.
 */
#define LAPIC_TIMER_HZ 1000000000u

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST  0x8ffu

#define APIC_BASE_BSP  BIT(8)
#define APIC_BASE_EXTD BIT(10) /* x2APIC mode */
#define APIC_BASE_EN   BIT(11)

/* Delivery modes, as in the ICR, the LVT, the I/O APIC's entries and MSI data. */
enum apic_mode {
    APIC_FIXED = 0,
    APIC_LOWEST = 1,
    APIC_SMI = 2,
    APIC_REMOTE_READ = 3,
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_SIPI = 6,
    APIC_EXTINT = 7,
};

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_N };

struct lapic_ops {
    /* The level of the CPU's INTR input: an interrupt that outranks the PPR waits, or the PIC's.
     * Called on changes only, and once after loading. */
    void (*intr)(void *arg, bool pending);
    void (*nmi)(void *arg);
    /* INIT: the LAPIC has reset itself already. */
    void (*init)(void *arg);
    /* Start-up IPI: begin in real mode at vector << 12, if the CPU waits for it. */
    void (*sipi)(void *arg, u8 vector);
    /* The PIC's interrupt acknowledge cycle: a vector, or -1. May be NULL. */
    int (*extint_ack)(void *arg);
    /* The guest's TSC now, and the clock time (ns, rounded up; CLOCK_NEVER if out of range) at
     * which it will reach `tsc`. Needed only with lapic_config.tsc_deadline. */
    u64 (*tsc_now)(void *arg);
    u64 (*tsc_to_ns)(void *arg, u64 tsc);
};

struct lapic_bus;

struct lapic_config {
    u32 apic_id; /* 0..254 */
    bool bsp;
    bool x2apic;       /* x2APIC mode is offered (CPUID.1:ECX[21]) */
    bool tsc_deadline; /* the timer mode is offered (CPUID.1:ECX[24]) */
    u8 phys_bits;      /* MAXPHYADDR: address bits of IA32_APIC_BASE above are reserved */
    struct clock *clock;
    const struct lapic_ops *ops;
    void *arg;
};

struct lapic {
    struct lapic_config cfg;
    struct lapic_bus *bus;

    u64 base; /* IA32_APIC_BASE */
    u8 xapic_id;
    u8 tpr;
    u32 ldr; /* xAPIC; the x2APIC one follows from the id */
    u32 dfr;
    u32 svr;
    u32 esr;         /* what the guest reads */
    u32 esr_pending; /* goes to esr when the guest writes it */
    bool esr_fired;  /* the error interrupt waits for a write to ESR */
    u64 icr;
    u32 lvt[LVT_N];
    u32 isr[8], tmr[8], irr[8];

    bool lint[2];     /* levels of the LINT0 and LINT1 wires */
    bool extint_once; /* an ExtINT message came, not yet acknowledged */
    bool intr_out;    /* last told to ops->intr */

    struct timer timer;
    u32 tmict;
    u32 tdcr;
    bool counting;    /* one-shot or periodic count in progress */
    u64 count_start;  /* clock ns at which the current period began (mod 2^64) */
    u64 tsc_deadline; /* 0: not armed */
};

struct lapic_bus {
    struct lapic *lapic[LAPIC_MAX];
    unsigned n;
    unsigned rotate; /* where lowest-priority arbitration starts: equals take turns */
    /* EOI of a level-triggered vector is broadcast to the I/O APICs. May be NULL. */
    void (*eoi)(void *arg, u8 vector);
    void *eoi_arg;
};

struct lapic_msg {
    u8 mode; /* enum apic_mode */
    u8 vector;
    bool level;   /* trigger mode: the EOI will be broadcast */
    bool logical; /* destination mode */
    bool dest32;  /* from an x2APIC: a 32-bit destination, broadcast is 0xffffffff and not 0xff */
    bool lowest;  /* only to the one of lowest priority (MSI redirection hint) */
    bool all;     /* destination shorthands of the ICR: everyone, or everyone but `except` */
    const struct lapic *except;
    u32 dest;
};

void lapic_bus_init(struct lapic_bus *b);

/* Puts the LAPIC on the bus, in its power-up state; at most LAPIC_MAX of them. */
void lapic_init(struct lapic *l, struct lapic_bus *b, const struct lapic_config *cfg);

/* Power-up reset: xAPIC mode, software-disabled. INIT is a message and does less. */
void lapic_reset(struct lapic *l);

/* What firmware leaves behind: LINT0 takes the PIC's interrupts (BSP), LINT1 is NMI. */
void lapic_setup_virtual_wire(struct lapic *l);

/* True if a physical access at gpa is for this LAPIC's xAPIC page: only then call the two below. */
static inline bool lapic_claims(const struct lapic *l, gpa_t gpa)
{
    return (l->base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EN &&
           gpa >> PAGE_SHIFT == l->base >> PAGE_SHIFT;
}

/* off is 0..0xfff. Accesses that are not aligned 32-bit ones have no effect. */
u64 lapic_mmio_read(struct lapic *l, u64 off, unsigned size);
void lapic_mmio_write(struct lapic *l, u64 off, unsigned size, u64 val);

/* IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC MSRs. Return 0, or -1: #GP(0). */
int lapic_msr_read(struct lapic *l, u32 msr, u64 *val);
int lapic_msr_write(struct lapic *l, u32 msr, u64 val);

/*
 * The CPU takes an interrupt: moves the highest vector that outranks the PPR from IRR to ISR, or
 * runs the PIC's acknowledge cycle. Returns the vector, or -1 if there is none (any more).
 */
int lapic_ack(struct lapic *l);

static inline bool lapic_pending(const struct lapic *l)
{
    return l->intr_out;
}

void lapic_set_tpr(struct lapic *l, u8 tpr);

static inline u8 lapic_tpr(const struct lapic *l)
{
    return l->tpr;
}

/* CR8 is TPR[7:4] and works even while the APIC is disabled. */
static inline void lapic_set_cr8(struct lapic *l, u64 cr8)
{
    lapic_set_tpr(l, (u8)((cr8 & 15) << 4));
}

static inline u64 lapic_cr8(const struct lapic *l)
{
    return l->tpr >> 4;
}

/* The guest's TSC was written or its offset changed: an armed TSC deadline moves on the clock. */
void lapic_tsc_changed(struct lapic *l);

/* Sends a message. Returns true if some LAPIC accepted it. */
bool lapic_bus_deliver(struct lapic_bus *b, const struct lapic_msg *m);

/* A DMA write of `data` to 0xfeexxxxx; other addresses are ignored. Returns as deliver does. */
bool lapic_bus_msi(struct lapic_bus *b, u64 addr, u32 data);

/* The LINT0 (pin 0: the PIC's INTR) and LINT1 (pin 1: NMI) wires of all LAPICs; fits struct irq. */
void lapic_bus_lint(void *bus, unsigned pin, int level);

void lapic_state(struct lapic *l, struct state *s);

#endif
