/*
 * kept.c - the guest of test_interrupts.c: interrupts that arrive while IF is clear. It and the
 * host talk through struct shared at SHARED. "apic=1": by I/O APIC and local APIC instead of the
 * 8259. "echo=1": IF stays set, and the interrupt handler sends back what COM1 receives.
 */
#include "apic.h"

#define COM1 0x3f8
#define COM2 0x2f8

/* ORDER KEPT: test_interrupts.c */
struct shared {
    u32 state; /* 1: ready, IF clear; 2: the requests are waiting; 3: IF was set, all is done */
    u32 go;    /* written by the host: set IF */
    u32 taken; /* handlers run so far */
    u8 order[16];
    u32 received[2]; /* bytes by COM1 and COM2 */
    u8 bytes[2][16];
};
#define SHARED ((volatile struct shared *)0x9000)

enum { VEC_PIT = 0x62, VEC_COM1 = 0x44, VEC_COM2 = 0x83 }; /* by APIC: COM2, then PIT, then COM1 */

static volatile bool by_apic, echo;

static void receive(unsigned com)
{
    u16 port = com ? COM2 : COM1;
    while (inb(port + 5) & 1) {
        u8 c = inb(port);
        if (echo) {
            outb(port, c);
        } else {
            u32 n = SHARED->received[com];
            SHARED->bytes[com][n & 15] = c;
            SHARED->received[com] = n + 1;
        }
    }
}

static void on_irq(struct frame *f)
{
    unsigned irq = (unsigned)f->vec - 0x20;
    if (by_apic)
        irq = f->vec == VEC_PIT ? 0 : f->vec == VEC_COM2 ? 3 : 4;
    SHARED->order[SHARED->taken & 15] = (u8)irq;
    SHARED->taken = SHARED->taken + 1;
    if (irq == 3 || irq == 4)
        receive(irq == 3);
    if (by_apic)
        apic_write(APIC_EOI, 0);
    else
        pic_eoi(irq);
}

static bool waiting(void)
{
    if (by_apic)
        return apic_bit(APIC_IRR, VEC_PIT) && apic_bit(APIC_IRR, VEC_COM1) &&
               apic_bit(APIC_IRR, VEC_COM2);
    return (pic_read(0x0a) & 0x19) == 0x19;
}

static void setup(void)
{
    static const u16 com[] = {COM1, COM2};
    for (unsigned v = 0x20; v < 0x90; v++)
        handler[v] = v == VEC_DONE ? NULL : on_irq;
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_LINT0, by_apic ? 0x10700 : 0x700);
    for (unsigned n = 0; n < 2; n++) {
        outb(com[n] + 2, 7); /* FIFO, emptied */
        outb(com[n] + 4, 8 | 3);
        outb(com[n] + 1, 1); /* receiver */
    }
    pit_start(0, 0xffff);
    if (by_apic) {
        pic_setup(0);
        ioapic_route(2, VEC_PIT, 0);
        ioapic_route(3, VEC_COM2, 0);
        ioapic_route(4, VEC_COM1, 0);
    } else {
        pic_setup(0x19);
    }
}

int main(void)
{
    by_apic = cmdline_number("apic", 0);
    echo = cmdline_number("echo", 0);
    setup();
    if (echo) {
        SHARED->state = 1;
        for (;;)
            sti_hlt_cli();
    }
    pit_start(0, 100);
    SHARED->state = 1;
    while (!waiting())
        cpu_relax();
    SHARED->state = 2;
    while (!SHARED->go)
        cpu_relax();
    sti();
    while (SHARED->taken < 3)
        cpu_relax();
    for (unsigned n = 0; n < 10000; n++)
        cpu_relax();
    cli();
    SHARED->state = 3;
    for (;;)
        __asm__ volatile("hlt");
}
