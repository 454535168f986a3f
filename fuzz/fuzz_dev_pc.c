/*
 * fuzz_dev_pc.c - the PC's chips on two buses, driven by the input: register accesses, wires, time,
 * injected events, snapshots taken, damaged and loaded.
 *
 * Nothing may crash or hang, and time that passes may cost only so many timer events.
 */
#include "base/clock.h"
#include "base/state.h"
#include "dev/acpi_pm.h"
#include "dev/debugexit.h"
#include "dev/fw_cfg.h"
#include "dev/testdev.h"
#include "dev/hpet.h"
#include "dev/i8042.h"
#include "dev/pci.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/rtc.h"
#include "dev/sysctl92.h"
#include "dev/uart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct pc {
    struct clock clock; /* first: now() casts */
    u64 now;
    struct bus port, mmio;
    struct pic_pair pic;
    struct pit pit;
    struct rtc rtc;
    struct uart uart;
    struct i8042 i8042;
    struct acpi_pm pm;
    struct hpet hpet;
    struct pci_bus pci;
    struct pci_dev card;
    struct debugexit exit;
    struct testdev testdev;
    struct fw_cfg fw_cfg;
    struct sysctl92 sysctl92;
    const u8 *in, *end;
    u64 sum; /* of all that was read: keeps the reads from being optimized away */
};

static u64 now(struct clock *c)
{
    return ((struct pc *)c)->now;
}

static u64 wall(void *arg)
{
    struct pc *pc = arg;
    return 1700000000 + pc->now / NSEC_PER_SEC;
}

static u64 take(struct pc *pc, unsigned n)
{
    u64 v = 0;
    for (unsigned i = 0; i < n && pc->in < pc->end; i++)
        v |= (u64)*pc->in++ << (8 * i);
    return v;
}

/* --- wiring --- */

static void intr(void *to, unsigned pin, int level)
{
    struct pc *pc = to;
    pc->sum += level;
}

static void tx(void *arg, const u8 *buf, size_t n)
{
    struct pc *pc = arg;
    pc->sum += buf[n - 1];
}

static void room(void *arg)
{
    struct pc *pc = arg;
    static const u8 text[40] = "more";
    pc->sum += uart_rx(&pc->uart, text, sizeof(text));
}

static void note(void *arg)
{
    struct pc *pc = arg;
    pc->sum++;
}

static void note_bool(void *arg, bool on)
{
    note(arg);
}

static void note_value(void *arg, unsigned v)
{
    note(arg);
}

static void legacy_route(void *arg, bool on)
{
    struct pc *pc = arg;
    pit_mute(&pc->pit, on);
    rtc_mute(&pc->rtc, on);
}

static u64 card_read(void *dev, u64 off, unsigned size)
{
    assert(off + size <= 256);
    return off;
}

static const struct bus_ops card_ops = {.read = card_read};

static struct irq irq(struct pc *pc, unsigned n)
{
    return (struct irq){.set = pic_set, .to = &pc->pic, .pin = n};
}

static void build_pci(struct pc *pc)
{
    const struct irq link[PCI_LINKS] = {irq(pc, 10), irq(pc, 11), irq(pc, 10),
                                        irq(pc, 11)}; /* the others go nowhere */
    pci_init(&pc->pci, &pc->port, &pc->mmio, link);
    pci_dev_init(&pc->card, "card", 0x1af4, 0x1041, 0x020000, 1, 1);
    pci_bar_io(&pc->card, 0, 64, &pc->port, &card_ops, pc);
    pci_bar_mem(&pc->card, 1, 256, false, false, &pc->mmio, &card_ops, pc);
    pci_bar_mem(&pc->card, 2, 256, true, true, &pc->mmio, &card_ops, pc);
    pci_cap_add(&pc->card, 9, 16);
    pci_add(&pc->pci, &pc->card, 3, 0);
    pci_attach(&pc->pci);
}

static void build(struct pc *pc)
{
    const struct acpi_pm_config pm = {.evt = 0x600,
                                      .cnt = 0x604,
                                      .tmr = 0x608,
                                      .gpe0 = 0x620,
                                      .smi_cmd = 0xb2,
                                      .acpi_enable = 0xf1,
                                      .acpi_disable = 0xf0,
                                      .sleep = note_value,
                                      .arg = pc,
                                      .sci = irq(pc, 9)};
    struct hpet_wires hpet = {.route_cap = 0x00f00000, .legacy_route = legacy_route, .arg = pc};
    hpet.legacy[0] = irq(pc, 0);
    hpet.legacy[1] = irq(pc, 8);
    pic_init(&pc->pic, (struct irq){.set = intr, .to = pc});
    pit_init(&pc->pit, &pc->clock, irq(pc, 0));
    rtc_init(&pc->rtc, &pc->clock, wall, pc, irq(pc, 8));
    rtc_set_memory(&pc->rtc, 3 * GiB, 5 * GiB);
    uart_init(&pc->uart, &pc->clock,
              (struct uart_wires){.tx = tx, .room = room, .arg = pc, .irq = irq(pc, 4)});
    i8042_init(&pc->i8042, (struct i8042_wires){
                               .reset = note, .a20 = note_bool, .arg = pc, .irq1 = irq(pc, 1)});
    acpi_pm_init(&pc->pm, &pc->clock, &pm);
    hpet_init(&pc->hpet, &pc->clock, &hpet);
    debugexit_init(&pc->exit, note_value, pc);
    sysctl92_init(&pc->sysctl92,
                  (struct sysctl92_wires){.reset = note, .a20 = note_bool, .arg = pc});
    struct irq line[TESTDEV_LINES];
    for (unsigned i = 0; i < TESTDEV_LINES; i++)
        line[i] = irq(pc, i % 16);
    testdev_init(&pc->testdev, line);
    fw_cfg_init(&pc->fw_cfg, 512 * MiB, 2);
    build_pci(pc);
    pic_attach(&pc->pic, &pc->port);
    pit_attach(&pc->pit, &pc->port);
    rtc_attach(&pc->rtc, &pc->port);
    uart_attach(&pc->uart, &pc->port, 0x3f8);
    i8042_attach(&pc->i8042, &pc->port);
    acpi_pm_attach(&pc->pm, &pc->port);
    hpet_attach(&pc->hpet, &pc->mmio, 0xfed00000);
    debugexit_attach(&pc->exit, &pc->port, DEBUGEXIT_PORT);
    sysctl92_attach(&pc->sysctl92, &pc->port);
    testdev_attach(&pc->testdev, &pc->port, &pc->mmio);
    fw_cfg_attach(&pc->fw_cfg, &pc->port);
}

/* --- what the input can ask for --- */

static u16 pick_port(struct pc *pc)
{
    static const u16 base[] = {0x20,  0xa0,  0x4d0, 0x40,  0x43,  0x61,  0x70,   0x71,  0x3f8,
                               0x3f8, 0x60,  0x64,  0x600, 0x604, 0x608, 0x620,  0xb2,  0xcf8,
                               0xcfc, 0xcf9, 0xf4,  0x92,  0xe0,  0x510, 0x2000, 0x2010};
    u8 which = take(pc, 1);
    if (which >= 0xf8)
        return take(pc, 2);
    unsigned spread = which & 7;
    return base[which % ARRAY_SIZE(base)] + spread;
}

static u64 pick_mmio(struct pc *pc)
{
    static const u16 reg[] = {0x00, 0x10, 0x20, 0xf0, 0x100, 0x108, 0x120, 0x128, 0x140, 0x148};
    u8 which = take(pc, 1);
    if (which >= 0xf0)
        return take(pc, 8);
    return 0xfed00000 + reg[which % ARRAY_SIZE(reg)] + (which & 0x80 ? 4 : 0);
}

static void advance(struct pc *pc)
{
    u8 v = take(pc, 1);
    pc->now += (u64)(v & 15) << (v >> 4) * 2;
    if (v == 0xff)
        pc->now += 3600 * NSEC_PER_SEC;
    for (unsigned i = 0; i < 3; i++)
        clock_run(&pc->clock);
    /* A timer that leaves its deadline in the past would spin the machine's timer thread. */
    assert(clock_next(&pc->clock) > pc->now);
}

static void all_state(struct pc *pc, struct state *s)
{
    pic_state(&pc->pic, s);
    pit_state(&pc->pit, s);
    rtc_state(&pc->rtc, s);
    uart_state(&pc->uart, s);
    i8042_state(&pc->i8042, s);
    acpi_pm_state(&pc->pm, s);
    hpet_state(&pc->hpet, s);
    pci_state(&pc->pci, s);
    sysctl92_state(&pc->sysctl92, s);
    fw_cfg_state(&pc->fw_cfg, s);
}

/* What was saved whole must load; damaged, it may be refused, and must do no harm. */
static void save_and_load(struct pc *pc)
{
    struct state out, in;
    state_init_save(&out);
    all_state(pc, &out);
    bool whole = true;
    for (unsigned n = take(pc, 1) & 3; n; n--) {
        out.buf[take(pc, 2) % out.len] = take(pc, 1);
        whole = false;
    }
    state_init_load(&in, out.buf, out.len);
    all_state(pc, &in);
    assert(!whole || (!in.failed && in.pos == in.len));
    state_free(&out);
}

static void reset(struct pc *pc)
{
    pic_reset(&pc->pic);
    pit_reset(&pc->pit);
    rtc_reset(&pc->rtc);
    uart_reset(&pc->uart);
    i8042_reset(&pc->i8042);
    acpi_pm_reset(&pc->pm);
    hpet_reset(&pc->hpet);
    pci_reset(&pc->pci);
    sysctl92_reset(&pc->sysctl92);
}

static void inject(struct pc *pc)
{
    u8 v = take(pc, 1);
    u8 bytes[20] = {v};
    switch (v % 6) {
    case 0:
        i8042_key(&pc->i8042, take(pc, 1));
        break;
    case 1:
        pc->sum += uart_rx(&pc->uart, bytes, v % sizeof(bytes));
        break;
    case 2:
        uart_rx_break(&pc->uart);
        break;
    case 3:
        acpi_pm_event(&pc->pm, take(pc, 2));
        break;
    case 4:
        acpi_pm_gpe(&pc->pm, v);
        break;
    default:
        pci_set_intx(&pc->card, 0, v & 0x80);
        break;
    }
}

static void step(struct pc *pc)
{
    u8 op = take(pc, 1);
    unsigned size = 1u << (op >> 6);
    unsigned io_size = size > 4 ? 1 : size;
    switch (op & 15) {
    case 0 ... 5: {
        u16 p = pick_port(pc);
        bus_write(&pc->port, p, io_size, take(pc, io_size));
        break;
    }
    case 6 ... 8:
        pc->sum += bus_read(&pc->port, pick_port(pc), io_size);
        break;
    case 9: {
        u64 gpa = pick_mmio(pc);
        bus_write(&pc->mmio, gpa, size, take(pc, size));
        break;
    }
    case 10:
        pc->sum += bus_read(&pc->mmio, pick_mmio(pc), size);
        break;
    case 11:
    case 12:
        advance(pc);
        break;
    case 13:
        pic_set(&pc->pic, op >> 4, take(pc, 1) & 1);
        if (pic_pending(&pc->pic))
            pc->sum += pic_ack(&pc->pic);
        break;
    case 14:
        inject(pc);
        break;
    default:
        if (op >> 4 < 4)
            save_and_load(pc);
        else if (op >> 4 == 4)
            reset(pc);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pc pc = {.clock = {.now = now},
                    .port = {.name = "port"},
                    .mmio = {.name = "mmio"},
                    .in = data,
                    .end = data + size};
    build(&pc);
    while (pc.in < pc.end)
        step(&pc);
    return 0;
}
