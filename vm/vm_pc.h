/*
 * vm_pc.h - the chips of a PC, and the wires between them.
 */
#ifndef POPF_VM_PC_H
#define POPF_VM_PC_H

#include "dev/acpi_pm.h"
#include "dev/debugexit.h"
#include "dev/fw_cfg.h"
#include "dev/hpet.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/pci.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/rtc.h"
#include "dev/sysctl92.h"
#include "dev/testdev.h"
#include "dev/uart.h"
#include "mem/bus.h"
#include "popf.h"

#define VM_PC_ISA_IRQS 16

struct vm_serial_end {
    struct popf *vm;
    unsigned port; /* 0: COM1 */
};

/* All of it under the machine's dev_lock. */
struct vm_pc {
    struct bus port, mmio;

    struct pic_pair pic;
    struct ioapic ioapic;
    struct lapic_bus lapics;
    struct pit pit;
    struct rtc rtc;
    struct hpet hpet;
    struct i8042 i8042;
    struct acpi_pm pm;
    struct pci_bus pci;
    struct sysctl92 sysctl;
    struct debugexit debugexit;
    struct fw_cfg fw_cfg;
    struct testdev testdev;
    struct uart com[POPF_SERIAL_PORTS];
    struct vm_serial_end com_end[POPF_SERIAL_PORTS];

    u8 pirq[2];          /* links that pull IRQ 10, 11 */
    u8 gsi[IOAPIC_PINS]; /* who pulls the I/O APIC's input: a bit per source, GSI_x */
    bool boots_linux;
};

/* Makes and wires every chip. */
int vm_pc_init(struct popf *vm, struct err *e);

/* The reset line. */
void vm_pc_reset(struct vm_pc *pc);

/* Writes the ACPI tables to the BIOS area. */
int vm_pc_build_acpi(struct popf *vm, gpa_t *rsdp, struct err *e);

/* The serial port that has this I/O port, or -1. */
int vm_pc_com_at(u16 port);

#endif
