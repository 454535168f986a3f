/*
 * The whole machine on one page: every chip, port, MMIO range and interrupt of the PC.
 *
 *  chip            ports, memory          interrupt   wired to
 *  8259A pair      20 21 a0 a1 4d0 4d1                LAPIC LINT0 of every CPU
 *  8254            40-43 61               IRQ 0
 *  i8042           60 64                  IRQ 1
 *  MC146818        70 71                  IRQ 8
 *  16550 COM2      2f8-2ff                IRQ 3
 *  16550 COM1      3f8-3ff                IRQ 4
 *  ACPI PM1a       600-605                IRQ 9 (SCI, level)
 *  ACPI PM timer   608-60b
 *  ACPI GPE0       60c-60f                SCI
 *  port 92, cf9    92 cf9                             reset
 *  fw_cfg          510 511
 *  PCI             cf8-cff                PIRQ A-H    I/O APIC 16-23; PIC 10 and 11
 *  virtio devices  PCI slots 1-29         INTA, MSI-X vm_virtio.h
 *  I/O APIC        fec00000
 *  HPET            fed00000               IRQ 0, 8    (in legacy mode), I/O APIC 2
 *  LAPIC           fee00000, per CPU                  answered in vm_world.c
 *
 *  Only with debug_exit:
 *  debug exit      f4-f7                              the end
 *  test device     e0-e7 2000-2017        any         PIC and I/O APIC
 *                  ff000000
 *
 *  IRQ n reaches the PIC's input n and the I/O APIC's input n; IRQ 0 its input 2.
 */
#include "vm/vm.h"

#include <stdio.h>

#include "vm/acpi.h"

#define PM_EVT     0x600
#define PM_CNT     0x604
#define PM_TMR     0x608
#define PM_GPE0    0x60c
#define PM_S5_TYP  5
#define HPET_BASE  0xfed00000ull
#define HPET_ID    0x8086a201u
#define RESET_PORT 0xcf9
#define RESET_VAL  6
#define PCI_IO     0xc000
#define PCI_IO_END 0x10000
#define MMIO32     BOOT_HOLE_START
#define MMIO32_END IOAPIC_DEFAULT_BASE

enum {
    IRQ_PIT = 0,
    IRQ_KBD = 1,
    IRQ_COM2 = 3,
    IRQ_COM1 = 4,
    IRQ_RTC = 8,
    IRQ_SCI = 9,
    IRQ_PIRQ = 10
};

/* Bits of vm_pc.gsi[]: the sources that may share an input. */
enum { GSI_ISA = 1, GSI_HPET = 2, GSI_PCI = 4, GSI_TEST = 8 };

static const u16 com_base[POPF_SERIAL_PORTS] = {0x3f8, 0x2f8};
static const u8 com_irq[POPF_SERIAL_PORTS] = {IRQ_COM1, IRQ_COM2};

/* --- wires --- */

static void pull_gsi(struct vm_pc *pc, unsigned gsi, u8 source, int level)
{
    u8 was = pc->gsi[gsi];
    pc->gsi[gsi] = level ? was | source : was & (u8)~source;
    ioapic_set(&pc->ioapic, gsi, pc->gsi[gsi] != 0);
}

static void isa_set(void *to, unsigned irq, int level)
{
    struct vm_pc *pc = to;
    pic_set(&pc->pic, irq, level);
    pull_gsi(pc, irq == IRQ_PIT ? 2 : irq, GSI_ISA, level);
}

/* The test device pulls inputs by number, beside whoever else does. */
static void test_set(void *to, unsigned irq, int level)
{
    struct vm_pc *pc = to;
    if (irq < VM_PC_ISA_IRQS)
        pic_set(&pc->pic, irq, level);
    pull_gsi(pc, irq == IRQ_PIT ? 2 : irq, GSI_TEST, level);
}

static void hpet_set(void *to, unsigned gsi, int level)
{
    pull_gsi(to, gsi, GSI_HPET, level);
}

/* PIRQ n is the I/O APIC's input 16 + n, as the _PRT says, and the PIC's 10 or 11. */
static void pirq_set(void *to, unsigned link, int level)
{
    struct vm_pc *pc = to;
    u8 *pulled = &pc->pirq[link & 1];
    *pulled = level ? *pulled | (u8)BIT(link) : *pulled & (u8)~BIT(link);
    pull_gsi(pc, 16 + link, GSI_PCI, level);
    pic_set(&pc->pic, IRQ_PIRQ + (link & 1), *pulled != 0);
}

static struct irq isa_irq(struct vm_pc *pc, unsigned irq)
{
    return (struct irq){.set = isa_set, .to = pc, .pin = irq};
}

static void on_reset(void *arg)
{
    vm_want_reset(arg);
}

static void on_sleep(void *arg, unsigned type)
{
    if (type == PM_S5_TYP)
        vm_end_text(arg, POPF_END_POWER_OFF, "the guest switched itself off");
}

static void on_debug_exit(void *arg, u32 status)
{
    struct popf_outcome how = {.end = POPF_END_DEBUG_EXIT, .code = status};
    snprintf(how.text, sizeof(how.text), "the guest left through the debug-exit port, status %u",
             status);
    vm_end(arg, &how);
}

/* HPET legacy replacement: its comparators take the wires of PIT and RTC. */
static void on_legacy_route(void *arg, bool on)
{
    struct vm_pc *pc = arg;
    pit_mute(&pc->pit, on);
    rtc_mute(&pc->rtc, on);
}

/* A PCI function's message: a write to where the LAPICs listen. */
static void on_msi(void *to, u64 addr, u32 data)
{
    struct vm_pc *pc = to;
    lapic_bus_msi(&pc->lapics, addr, data);
}

/* --- chips --- */

static void init_test_chips(struct popf *vm)
{
    struct vm_pc *pc = &vm->pc;
    struct irq line[TESTDEV_LINES];
    for (unsigned i = 0; i < TESTDEV_LINES; i++)
        line[i] = (struct irq){.set = test_set, .to = pc, .pin = i};
    testdev_init(&pc->testdev, line);
    debugexit_init(&pc->debugexit, on_debug_exit, vm);
}

static int attach_test_chips(struct vm_pc *pc)
{
    return debugexit_attach(&pc->debugexit, &pc->port, DEBUGEXIT_PORT) |
           testdev_attach(&pc->testdev, &pc->port, &pc->mmio);
}

static void init_chips(struct popf *vm)
{
    struct vm_pc *pc = &vm->pc;
    struct clock *clock = &vm->clk.clock;

    pc->port = (struct bus){.name = "port", .log = &vm->log};
    pc->mmio = (struct bus){.name = "mmio", .log = &vm->log};

    lapic_bus_init(&pc->lapics);
    pc->lapics.eoi = ioapic_eoi;
    pc->lapics.eoi_arg = &pc->ioapic;
    ioapic_init(&pc->ioapic, &pc->lapics, (u8)(vm->cfg.cpus < 15 ? vm->cfg.cpus : 15));
    pic_init(&pc->pic, (struct irq){.set = lapic_bus_lint, .to = &pc->lapics, .pin = 0});

    pit_init(&pc->pit, clock, isa_irq(pc, IRQ_PIT));
    rtc_init(&pc->rtc, clock, vm_clock_wall, NULL, isa_irq(pc, IRQ_RTC));
    rtc_set_memory(&pc->rtc, vm->ram_low, vm->ram_high);
    i8042_init(&pc->i8042,
               (struct i8042_wires){.reset = on_reset, .arg = vm, .irq1 = isa_irq(pc, IRQ_KBD)});
    sysctl92_init(&pc->sysctl, (struct sysctl92_wires){.reset = on_reset, .arg = vm});
    fw_cfg_init(&pc->fw_cfg, vm->ram_low + vm->ram_high, (u16)vm->cfg.cpus);
    acpi_pm_init(&pc->pm, clock,
                 &(struct acpi_pm_config){.evt = PM_EVT,
                                          .cnt = PM_CNT,
                                          .tmr = PM_TMR,
                                          .gpe0 = PM_GPE0,
                                          .tmr32 = true,
                                          .sleep = on_sleep,
                                          .arg = vm,
                                          .sci = isa_irq(pc, IRQ_SCI)});
    hpet_init(&pc->hpet, clock,
              &(struct hpet_wires){.pin = {[2] = {.set = hpet_set, .to = pc, .pin = 2}},
                                   .route_cap = BIT(2),
                                   .legacy = {isa_irq(pc, IRQ_PIT), isa_irq(pc, IRQ_RTC)},
                                   .legacy_route = on_legacy_route,
                                   .arg = pc});

    struct irq link[PCI_LINKS];
    for (unsigned i = 0; i < PCI_LINKS; i++)
        link[i] = (struct irq){.set = pirq_set, .to = pc, .pin = i};
    pci_init(&pc->pci, &pc->port, &pc->mmio, link);
    pc->pci.msi = on_msi;
    pc->pci.msi_arg = pc;

    for (unsigned i = 0; i < POPF_SERIAL_PORTS; i++) {
        pc->com_end[i] = (struct vm_serial_end){.vm = vm, .port = i};
        uart_init(&pc->com[i], clock,
                  (struct uart_wires){.tx = vm_serial_tx,
                                      .room = vm_serial_room,
                                      .arg = &pc->com_end[i],
                                      .irq = isa_irq(pc, com_irq[i])});
    }
}

int vm_pc_init(struct popf *vm, struct err *e)
{
    struct vm_pc *pc = &vm->pc;
    struct bus *port = &pc->port, *mmio = &pc->mmio;
    init_chips(vm);
    init_test_chips(vm);

    int bad = 0;
    bad |= pic_attach(&pc->pic, port);
    bad |= pit_attach(&pc->pit, port);
    bad |= rtc_attach(&pc->rtc, port);
    bad |= i8042_attach(&pc->i8042, port);
    bad |= uart_attach(&pc->com[0], port, com_base[0]);
    bad |= uart_attach(&pc->com[1], port, com_base[1]);
    bad |= acpi_pm_attach(&pc->pm, port);
    bad |= pci_attach(&pc->pci);
    bad |= sysctl92_attach(&pc->sysctl, port); /* after PCI: cf9 lies within cf8 */
    bad |= fw_cfg_attach(&pc->fw_cfg, port);
    if (vm->cfg.debug_exit)
        bad |= attach_test_chips(pc);
    bad |=
        bus_add(mmio, IOAPIC_DEFAULT_BASE, IOAPIC_SIZE, &ioapic_bus_ops, &pc->ioapic, "ioapic") < 0;
    bad |= hpet_attach(&pc->hpet, mmio, HPET_BASE);
    return bad ? err_set(e, "the machine's buses are full (BUS_RANGES_MAX)") : 0;
}

/*
 * What firmware leaves behind: the PICs at vectors 08h and 70h with only the timer and the cascade
 * open, the timer at 18.2 Hz, PCI resources handed out.
 */
static void leave_as_firmware(struct vm_pc *pc)
{
    static const struct {
        u16 port;
        u8 val;
    } out[] = {
        {0x20, 0x11},  {0x21, 0x08}, {0x21, 0x04}, {0x21, 0x01}, /* ICW1..4, master */
        {0xa0, 0x11},  {0xa1, 0x70}, {0xa1, 0x02}, {0xa1, 0x01}, /* ICW1..4, slave */
        {0x21, 0xfa},  {0xa1, 0xff},                             /* masks */
        {0x4d1, 0x0c},                                           /* ELCR: IRQs 10, 11 are PCI's */
        {0x43, 0x34},  {0x40, 0x00}, {0x40, 0x00},               /* channel 0, mode 2, 65536 */
    };
    for (unsigned i = 0; i < ARRAY_SIZE(out); i++)
        bus_write(&pc->port, out[i].port, 1, out[i].val);
    static const u8 pirq_irq[PCI_LINKS] = {10, 11, 10, 11, 10, 11, 10, 11};
    pci_assign(&pc->pci, PCI_IO, PCI_IO_END, MMIO32, MMIO32_END, pirq_irq);
}

void vm_pc_reset(struct vm_pc *pc)
{
    pic_reset(&pc->pic);
    ioapic_reset(&pc->ioapic);
    pit_reset(&pc->pit);
    rtc_reset(&pc->rtc);
    hpet_reset(&pc->hpet);
    i8042_reset(&pc->i8042);
    acpi_pm_reset(&pc->pm);
    pci_reset(&pc->pci);
    sysctl92_reset(&pc->sysctl);
    fw_cfg_reset(&pc->fw_cfg);
    for (unsigned i = 0; i < POPF_SERIAL_PORTS; i++)
        uart_reset(&pc->com[i]);
    leave_as_firmware(pc);
}

int vm_pc_build_acpi(struct popf *vm, gpa_t *rsdp, struct err *e)
{
    struct acpi_config cfg = {
        .cpus = vm->cfg.cpus,
        .ioapic = IOAPIC_DEFAULT_BASE,
        .ioapic_id = vm->pc.ioapic.initial_id,
        .sci_irq = IRQ_SCI,
        .pm1_evt = PM_EVT,
        .pm1_cnt = PM_CNT,
        .pm_tmr = PM_TMR,
        .pm_tmr_32bit = true,
        .gpe0 = PM_GPE0,
        .gpe0_len = 4,
        .s5_typ = PM_S5_TYP,
        .reset_port = RESET_PORT,
        .reset_val = RESET_VAL,
        .hpet = HPET_BASE,
        .hpet_id = HPET_ID,
        .coms = (1 << POPF_SERIAL_PORTS) - 1,
        .i8042 = true,
        .rtc = true,
        .rtc_century = 0x32,
        .pci = true,
        .mmio32 = MMIO32,
        .mmio32_size = MMIO32_END - MMIO32,
    };
    return acpi_build(&cfg, &vm->mem, ACPI_AREA, ACPI_AREA_SIZE, rsdp, e);
}

int vm_pc_com_at(u16 port)
{
    for (unsigned i = 0; i < POPF_SERIAL_PORTS; i++)
        if ((u16)(port - com_base[i]) < 8)
            return (int)i;
    return -1;
}
