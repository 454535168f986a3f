/*
 * apic.h - local APIC, I/O APIC and 8259 pair as the guests use them (SDM vol. 3A, chapter 10;
 * 82093AA; 8259A).
 */
#ifndef POPF_TEST_APIC_H
#define POPF_TEST_APIC_H

#include "guest.h"

#define APIC_BASE  0xfee00000u
#define APIC_ID    0x20
#define APIC_VER   0x30
#define APIC_TPR   0x80
#define APIC_PPR   0xa0
#define APIC_EOI   0xb0
#define APIC_LDR   0xd0
#define APIC_DFR   0xe0
#define APIC_SVR   0xf0
#define APIC_ISR   0x100
#define APIC_TMR   0x180
#define APIC_IRR   0x200
#define APIC_ESR   0x280
#define APIC_ICR   0x300
#define APIC_ICR2  0x310
#define APIC_TIMER 0x320
#define APIC_LINT0 0x350
#define APIC_LINT1 0x360
#define APIC_ERROR 0x370
#define APIC_TMICT 0x380
#define APIC_TMCCT 0x390
#define APIC_TDCR  0x3e0
#define LVT_MASKED 0x10000u
#define LVT_PERIOD 0x20000u
#define LVT_TSC    0x40000u

#define ICR_FIXED   0x000u
#define ICR_LOWEST  0x100u
#define ICR_NMI     0x400u
#define ICR_INIT    0x500u
#define ICR_STARTUP 0x600u
#define ICR_LOGICAL 0x800u
#define ICR_PENDING 0x1000u
#define ICR_ASSERT  0x4000u
#define ICR_LEVEL   0x8000u
#define ICR_SELF    0x40000u
#define ICR_ALL     0x80000u
#define ICR_OTHERS  0xc0000u

#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC       0x800
#define X2(reg)          (MSR_X2APIC + (reg) / 16)

static inline u32 apic_read(u32 reg)
{
    return *(volatile u32 *)(word)(APIC_BASE + reg);
}

static inline void apic_write(u32 reg, u32 v)
{
    *(volatile u32 *)(word)(APIC_BASE + reg) = v;
}

static inline void apic_ipi(u32 dest, u32 icr)
{
    while (apic_read(APIC_ICR) & ICR_PENDING)
        cpu_relax();
    apic_write(APIC_ICR2, dest << 24);
    apic_write(APIC_ICR, icr);
}

static inline bool apic_bit(u32 base, u8 vec)
{
    return apic_read(base + vec / 32 * 16) >> (vec % 32) & 1;
}

/* --- I/O APIC --- */

#define IOAPIC       0xfec00000u
#define IOAPIC_LEVEL 0x8000u
#define IOAPIC_MASK  0x10000u
#define IOAPIC_RIRR  0x4000u

static inline u32 ioapic_read(u32 reg)
{
    *(volatile u32 *)(word)IOAPIC = reg;
    return *(volatile u32 *)(word)(IOAPIC + 16);
}

static inline void ioapic_write(u32 reg, u32 v)
{
    *(volatile u32 *)(word)IOAPIC = reg;
    *(volatile u32 *)(word)(IOAPIC + 16) = v;
}

static inline void ioapic_route(unsigned pin, u32 low, u32 dest)
{
    ioapic_write(0x10 + 2 * pin, IOAPIC_MASK);
    ioapic_write(0x11 + 2 * pin, dest << 24);
    ioapic_write(0x10 + 2 * pin, low);
}

/* --- 8259 pair at vectors 0x20 and 0x28 --- */

static inline void pic_setup(u16 unmasked)
{
    static const u8 icw[2][4] = {{0x11, 0x20, 4, 1}, {0x11, 0x28, 2, 1}};
    for (unsigned n = 0; n < 2; n++) {
        u16 port = n ? 0xa0 : 0x20;
        outb(port, icw[n][0]);
        outb(port + 1, icw[n][1]);
        outb(port + 1, icw[n][2]);
        outb(port + 1, icw[n][3]);
        outb(port + 1, (u8) ~(unmasked >> 8 * n));
    }
}

static inline u16 pic_read(u8 ocw3) /* 0x0a: IRR, 0x0b: ISR */
{
    outb(0x20, ocw3);
    outb(0xa0, ocw3);
    return inb(0x20) | (u16)(inb(0xa0) << 8);
}

static inline void pic_eoi(unsigned irq)
{
    if (irq >= 8)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

/* --- 8254 --- */

static inline void pit_start(u8 mode, u16 count)
{
    outb(0x43, 0x30 | mode << 1);
    outb(0x40, (u8)count);
    outb(0x40, (u8)(count >> 8));
}

#endif
