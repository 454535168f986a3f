/*
 * acpi.h - the ACPI tables of a machine (ACPI 6.4): RSDP, RSDT, XSDT, FADT, FACS, DSDT, MADT, HPET.
 */
#ifndef POPF_ACPI_H
#define POPF_ACPI_H

#include "base/base.h"
#include "mem/mem.h"

/* Where a PC's operating system looks for the RSDP, on 16-byte boundaries. */
#define ACPI_AREA      0xe0000ull
#define ACPI_AREA_SIZE 0x20000ull

struct acpi_config {
    unsigned cpus;      /* 1..254 */
    const u32 *apic_id; /* [cpus]; NULL: 0, 1, 2... */
    gpa_t ioapic;       /* GSIs 0..23 */
    u8 ioapic_id;
    u8 sci_irq; /* 3..15, also its GSI */

    /* Fixed-feature registers (I/O ports). The event block has 4 bytes, control 2, timer 4. */
    u16 pm1_evt, pm1_cnt, pm_tmr;
    bool pm_tmr_32bit; /* otherwise it counts 24 bits */
    u16 gpe0;          /* 0: none */
    u8 gpe0_len;       /* bytes of status and enable registers together */
    u8 s5_typ;         /* SLP_TYP that powers off */
    u16 reset_port;    /* 0: no reset register */
    u8 reset_val;

    gpa_t hpet;  /* 0: none */
    u32 hpet_id; /* the low half of its capabilities register */

    u8 coms;    /* bit n: COM(n+1) is there, at its usual port and IRQ */
    bool i8042; /* keyboard controller */
    bool mouse; /* with a PS/2 mouse on IRQ 12 */
    bool rtc;
    u8 rtc_century; /* CMOS index of the century, or 0 */
    bool vga;       /* ports and memory at 0xa0000 answer */

    bool pci; /* host bridge with configuration mechanism 1 */
    u8 last_bus;
    u32 mmio32, mmio32_size;
    u64 mmio64, mmio64_size; /* size 0: none */
};

/* The GSI that INTA..INTD (pin 0..3) of a slot on bus 0 is wired to: 16..23, as _PRT says. */
static inline unsigned acpi_pci_gsi(unsigned slot, unsigned pin)
{
    return 16 + ((slot + pin) & 7);
}

/*
 * Builds the tables and writes them to guest RAM at [where, where+room), `where` a multiple of 64;
 * *rsdp is where the RSDP is. The caller reserves the range in the guest's memory map. Fails when
 * the room is too small or not RAM.
 */
int acpi_build(const struct acpi_config *c, struct mem *m, gpa_t where, u64 room, gpa_t *rsdp,
               struct err *e);

#endif
