/* Transcripts of the local APIC, in both of its modes, under a clock driven by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "dev/lapic.h"

enum {
    ID = 0x20,
    VER = 0x30,
    TPR = 0x80,
    APR = 0x90,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR = 0x300,
    ICR2 = 0x310,
    TIMER = 0x320,
    PERF = 0x340,
    LINT0 = 0x350,
    LINT1 = 0x360,
    ERROR = 0x370,
    TMICT = 0x380,
    TMCCT = 0x390,
    TDCR = 0x3e0,
    SELF_IPI = 0x3f0,
};

#define MASKED    0x10000u
#define PERIODIC  0x20000u
#define DEADLINE  0x40000u
#define EN_X2APIC (LAPIC_DEFAULT_BASE | APIC_BASE_EN | APIC_BASE_EXTD)

#define NCPU 4

struct rig;

struct cpu {
    struct rig *rig;
    struct lapic lapic;
    bool intr;
    unsigned nmi, init, sipi;
    u8 sipi_vector;
};

struct rig {
    struct clock clock;
    u64 now;
    u64 tsc_offset; /* the TSC runs at 2 GHz */
    struct lapic_bus bus;
    struct cpu cpu[NCPU];
    int pic; /* what the PIC answers */
    u8 eoi;
    unsigned eois;
    bool loading;
};

static u64 now(struct clock *c)
{
    return container_of(c, struct rig, clock)->now;
}

static void on_intr(void *arg, bool pending)
{
    struct cpu *c = arg;

    if (!c->rig->loading)
        assert_int_not_equal(c->intr, pending);
    c->intr = pending;
}

static void on_nmi(void *arg)
{
    ((struct cpu *)arg)->nmi++;
}

static void on_init(void *arg)
{
    ((struct cpu *)arg)->init++;
}

static void on_sipi(void *arg, u8 vector)
{
    struct cpu *c = arg;

    c->sipi++;
    c->sipi_vector = vector;
}

static int on_extint(void *arg)
{
    struct cpu *c = arg;

    lapic_bus_lint(&c->rig->bus, 0, 0);
    return c->rig->pic;
}

static u64 tsc_now(void *arg)
{
    struct rig *r = ((struct cpu *)arg)->rig;

    return 2 * r->now + r->tsc_offset;
}

static u64 tsc_to_ns(void *arg, u64 tsc)
{
    struct rig *r = ((struct cpu *)arg)->rig;

    return (tsc - r->tsc_offset + 1) / 2;
}

static const struct lapic_ops ops = {on_intr,   on_nmi,  on_init,  on_sipi,
                                     on_extint, tsc_now, tsc_to_ns};

static void on_eoi(void *arg, u8 vector)
{
    struct rig *r = arg;

    r->eoi = vector;
    r->eois++;
}

static void build(struct rig *r)
{
    *r = (struct rig){.clock.now = now, .now = 1000};
    lapic_bus_init(&r->bus);
    r->bus.eoi = on_eoi;
    r->bus.eoi_arg = r;
    for (unsigned i = 0; i < NCPU; i++) {
        struct lapic_config c = {i, i == 0, true, true, 39, &r->clock, &ops, &r->cpu[i]};

        r->cpu[i].rig = r;
        lapic_init(&r->cpu[i].lapic, &r->bus, &c);
    }
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));

    *state = r;
    if (r)
        build(r);
    return !r;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static u32 rd(struct rig *r, unsigned cpu, unsigned reg)
{
    return (u32)lapic_mmio_read(&r->cpu[cpu].lapic, reg, 4);
}

static void wr(struct rig *r, unsigned cpu, unsigned reg, u32 val)
{
    lapic_mmio_write(&r->cpu[cpu].lapic, reg, 4, val);
}

static int ack(struct rig *r, unsigned cpu)
{
    return lapic_ack(&r->cpu[cpu].lapic);
}

static int wrmsr(struct rig *r, unsigned cpu, u32 msr, u64 val)
{
    return lapic_msr_write(&r->cpu[cpu].lapic, msr, val);
}

static u64 rdmsr(struct rig *r, unsigned cpu, u32 msr)
{
    u64 v = 0;

    assert_int_equal(lapic_msr_read(&r->cpu[cpu].lapic, msr, &v), 0);
    return v;
}

static int rdmsr_fails(struct rig *r, unsigned cpu, u32 msr)
{
    u64 v;

    return lapic_msr_read(&r->cpu[cpu].lapic, msr, &v);
}

static u32 x2(unsigned reg)
{
    return MSR_X2APIC_FIRST + (reg >> 4);
}

static void go(struct rig *r, u64 to)
{
    while (clock_next(&r->clock) <= to) {
        r->now = max_u64(r->now, clock_next(&r->clock));
        clock_run(&r->clock);
    }
    r->now = to;
}

static void enable_all(struct rig *r)
{
    for (unsigned i = 0; i < NCPU; i++)
        wr(r, i, SVR, 0x1ff);
}

static void x2apic_all(struct rig *r)
{
    for (unsigned i = 0; i < NCPU; i++) {
        assert_int_equal(wrmsr(r, i, MSR_APIC_BASE, EN_X2APIC | (i ? 0 : APIC_BASE_BSP)), 0);
        assert_int_equal(wrmsr(r, i, x2(SVR), 0x1ff), 0);
    }
}

/* Which CPUs have a vector waiting; takes and ends it there. */
static unsigned takers(struct rig *r, int vector)
{
    unsigned set = 0;

    for (unsigned i = 0; i < NCPU; i++) {
        struct lapic *l = &r->cpu[i].lapic;

        if (ack(r, i) != vector)
            continue;
        set |= 1u << i;
        if (l->base & APIC_BASE_EXTD)
            assert_int_equal(wrmsr(r, i, x2(EOI), 0), 0);
        else
            wr(r, i, EOI, 0);
    }
    return set;
}

static void test_reset(void **state)
{
    struct rig *r = *state;

    for (unsigned i = 0; i < NCPU; i++) {
        assert_int_equal(rd(r, i, ID), i << 24);
        assert_int_equal(rdmsr(r, i, MSR_APIC_BASE), 0xfee00800 | (i ? 0 : 0x100));
    }
    assert_int_equal(rd(r, 0, VER) & 0xff, 0x14);
    assert_int_equal(rd(r, 0, VER) >> 16 & 0xff, 5);
    assert_int_equal(rd(r, 0, SVR), 0xff);
    assert_int_equal(rd(r, 0, DFR), 0xffffffff);
    for (unsigned reg = TIMER; reg <= ERROR; reg += 16)
        assert_int_equal(rd(r, 0, reg), MASKED);
    assert_int_equal(ack(r, 0), -1);
    assert_true(lapic_claims(&r->cpu[0].lapic, 0xfee00ff0));
    assert_false(lapic_claims(&r->cpu[0].lapic, 0xfee01000));
}

static void test_priorities(void **state)
{
    struct rig *r = *state;

    enable_all(r);
    assert_true(lapic_bus_msi(&r->bus, 0xfee00000, 0x45));
    assert_true(r->cpu[0].intr);
    assert_false(r->cpu[1].intr);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x31);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x82);
    assert_int_equal(rd(r, 0, IRR + 0x20), 1u << 5);
    assert_int_equal(ack(r, 0), 0x82);
    assert_int_equal(rd(r, 0, ISR + 0x40), 1u << 2);
    assert_int_equal(rd(r, 0, PPR), 0x80);
    assert_false(r->cpu[0].intr);
    /* Of the same class: waits. Higher: nests. */
    lapic_bus_msi(&r->bus, 0xfee00000, 0x8f);
    assert_int_equal(ack(r, 0), -1);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x90);
    assert_int_equal(ack(r, 0), 0x90);
    wr(r, 0, EOI, 0);
    assert_int_equal(rd(r, 0, PPR), 0x80);
    wr(r, 0, EOI, 0);
    assert_int_equal(ack(r, 0), 0x8f);
    wr(r, 0, EOI, 0);
    assert_int_equal(ack(r, 0), 0x45);
    wr(r, 0, EOI, 0);
    /* The TPR holds back its class and what is below, through either door. */
    wr(r, 0, TPR, 0x3f);
    assert_false(r->cpu[0].intr);
    assert_int_equal(lapic_cr8(&r->cpu[0].lapic), 3);
    assert_int_equal(rd(r, 0, PPR), 0x3f);
    assert_int_equal(ack(r, 0), -1);
    lapic_set_cr8(&r->cpu[0].lapic, 2);
    assert_int_equal(rd(r, 0, TPR), 0x20);
    assert_true(r->cpu[0].intr);
    assert_int_equal(ack(r, 0), 0x31);
    wr(r, 0, EOI, 0);
    wr(r, 0, EOI, 0); /* one too many */
    assert_int_equal(r->eois, 0);
}

static void test_level_eoi(void **state)
{
    struct rig *r = *state;

    enable_all(r);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x8061);
    assert_int_equal(rd(r, 0, TMR + 0x30), 2);
    assert_int_equal(ack(r, 0), 0x61);
    wr(r, 0, EOI, 0);
    assert_int_equal(r->eois, 1);
    assert_int_equal(r->eoi, 0x61);
    /* The TMR follows the latest trigger mode. */
    lapic_bus_msi(&r->bus, 0xfee00000, 0x0061);
    assert_int_equal(rd(r, 0, TMR + 0x30), 0);
    assert_int_equal(takers(r, 0x61), 1);
    assert_int_equal(r->eois, 1);
    wr(r, 0, SVR, 0x11ff); /* suppress EOI broadcasts */
    lapic_bus_msi(&r->bus, 0xfee00000, 0x8061);
    assert_int_equal(takers(r, 0x61), 1);
    assert_int_equal(r->eois, 1);
}

static void test_software_disable(void **state)
{
    struct rig *r = *state;

    assert_false(lapic_bus_msi(&r->bus, 0xfee00000, 0x45));
    wr(r, 0, LINT1, 0x400);
    assert_int_equal(rd(r, 0, LINT1), MASKED | 0x400);
    wr(r, 0, SVR, 0x1ff);
    wr(r, 0, LINT1, 0x400);
    assert_int_equal(rd(r, 0, LINT1), 0x400);
    assert_true(lapic_bus_msi(&r->bus, 0xfee00000, 0x45));
    wr(r, 0, SVR, 0xff);
    assert_int_equal(rd(r, 0, LINT1), MASKED | 0x400);
    assert_int_equal(ack(r, 0), 0x45); /* what came before is still delivered */
}

static void test_destinations_xapic(void **state)
{
    struct rig *r = *state;

    enable_all(r);
    wr(r, 1, ICR2, 2u << 24);
    wr(r, 1, ICR, 0x51);
    assert_int_equal(takers(r, 0x51), 1u << 2);
    wr(r, 1, ICR2, 0xffu << 24);
    wr(r, 1, ICR, 0x51);
    assert_int_equal(takers(r, 0x51), 0xf);
    wr(r, 1, ICR, 0x40051);
    assert_int_equal(takers(r, 0x51), 1u << 1);
    wr(r, 1, ICR, 0x80051);
    assert_int_equal(takers(r, 0x51), 0xf);
    wr(r, 1, ICR, 0xc0051);
    assert_int_equal(takers(r, 0x51), 0xd);
    assert_int_equal(rd(r, 1, ICR), 0xc0051);
    assert_int_equal(rd(r, 1, ICR2), 0xff000000);
    wr(r, 3, ID, 9u << 24);
    wr(r, 1, ICR2, 9u << 24);
    wr(r, 1, ICR, 0x51);
    assert_int_equal(takers(r, 0x51), 1u << 3);
    /* flat */
    for (unsigned i = 0; i < NCPU; i++)
        wr(r, i, LDR, 1u << (24 + i));
    wr(r, 0, ICR2, 0x06u << 24);
    wr(r, 0, ICR, 0x851);
    assert_int_equal(takers(r, 0x51), 6);
    assert_true(lapic_bus_msi(&r->bus, 0xfee0d004, 0x51));
    assert_int_equal(takers(r, 0x51), 0xd);
    /* clusters: CPUs 0 and 1 in cluster 1, 2 and 3 in cluster 2 */
    for (unsigned i = 0; i < NCPU; i++) {
        wr(r, i, DFR, 0);
        assert_int_equal(rd(r, i, DFR), 0x0fffffff);
        wr(r, i, LDR, (0x10u * (1 + i / 2) + (1u << (i & 1))) << 24);
    }
    wr(r, 0, ICR2, 0x23u << 24);
    wr(r, 0, ICR, 0x851);
    assert_int_equal(takers(r, 0x51), 0xc);
    wr(r, 0, ICR2, 0xf2u << 24); /* member 2 of every cluster */
    wr(r, 0, ICR, 0x851);
    assert_int_equal(takers(r, 0x51), 0xa);
    assert_false(lapic_bus_msi(&r->bus, 0xfee33004, 0x51));
}

static void test_destinations_x2apic(void **state)
{
    struct rig *r = *state;
    x2apic_all(r);
    assert_int_equal(rdmsr(r, 3, x2(ID)), 3);
    assert_int_equal(rdmsr(r, 3, x2(LDR)), 8);
    assert_int_equal(wrmsr(r, 0, x2(ICR), 3ull << 32 | 0x51), 0);
    assert_int_equal(rdmsr(r, 0, x2(ICR)), 3ull << 32 | 0x51);
    assert_int_equal(takers(r, 0x51), 8);
    assert_int_equal(wrmsr(r, 0, x2(ICR), 0xffffffffull << 32 | 0x51), 0);
    assert_int_equal(takers(r, 0x51), 0xf);
    assert_int_equal(wrmsr(r, 0, x2(ICR), 0xffull << 32 | 0x51), 0); /* no such CPU */
    assert_int_equal(takers(r, 0x51), 0);
    assert_int_equal(wrmsr(r, 0, x2(ICR), 0x6ull << 32 | 0x851), 0);
    assert_int_equal(takers(r, 0x51), 6);
    assert_int_equal(wrmsr(r, 0, x2(ICR), 0x10006ull << 32 | 0x851), 0); /* another cluster */
    assert_int_equal(takers(r, 0x51), 0);
    assert_int_equal(wrmsr(r, 2, x2(SELF_IPI), 0x51), 0);
    assert_int_equal(takers(r, 0x51), 4);
    lapic_bus_msi(&r->bus, 0xfeeff000, 0x51); /* an 8-bit broadcast reaches them, too */
    assert_int_equal(takers(r, 0x51), 0xf);
}

static void test_lowest_priority(void **state)
{
    struct rig *r = *state;
    unsigned seen = 0;

    enable_all(r);
    for (unsigned i = 0; i < NCPU; i++) {
        wr(r, i, LDR, 1u << (24 + i));
        wr(r, i, TPR, i == 2 ? 0x10 : 0x20);
    }
    lapic_bus_msi(&r->bus, 0xfee0f004, 0x151);
    assert_int_equal(takers(r, 0x51), 4);
    lapic_bus_msi(&r->bus, 0xfee0f00c, 0x051); /* by the redirection hint */
    assert_int_equal(takers(r, 0x51), 4);
    wr(r, 2, SVR, 0xff); /* no candidate any more */
    for (unsigned i = 0; i < 8; i++) {
        unsigned t;

        lapic_bus_msi(&r->bus, 0xfee0f004, 0x151);
        t = takers(r, 0x51);
        assert_int_equal(__builtin_popcount(t), 1);
        seen |= t;
    }
    assert_int_equal(seen, 0xb); /* equals take turns */
}

static void test_nmi_init_sipi(void **state)
{
    struct rig *r = *state;

    enable_all(r);
    wr(r, 0, ICR2, 1u << 24);
    wr(r, 0, ICR, 0x400);
    assert_int_equal(r->cpu[1].nmi, 1);
    wr(r, 0, ICR, 0x200); /* SMI */
    wr(r, 0, ICR, 0x300);
    wr(r, 1, TPR, 0x40);
    wr(r, 1, LDR, 0x2000000);
    lapic_bus_msi(&r->bus, 0xfee01000, 0x51);
    assert_true(r->cpu[1].intr);
    wr(r, 0, ICR, 0xc500); /* INIT, level, assert: as operating systems write it */
    assert_int_equal(r->cpu[1].init, 1);
    assert_int_equal(rd(r, 1, TPR), 0);
    assert_int_equal(rd(r, 1, LDR), 0);
    assert_int_equal(rd(r, 1, SVR), 0xff);
    assert_int_equal(rd(r, 1, ID), 1u << 24);
    assert_false(r->cpu[1].intr);
    wr(r, 0, ICR, 0x8500); /* de-assert */
    assert_int_equal(r->cpu[1].init, 1);
    wr(r, 0, ICR, 0x69a);
    assert_int_equal(r->cpu[1].sipi, 1);
    assert_int_equal(r->cpu[1].sipi_vector, 0x9a);
    wr(r, 0, ICR, 0xc4500); /* INIT to all others */
    assert_int_equal(r->cpu[0].init, 0);
    assert_int_equal(r->cpu[1].init, 2);
    assert_int_equal(r->cpu[3].init, 1);
    /* INIT leaves the mode alone. */
    x2apic_all(r);
    wrmsr(r, 0, x2(ICR), 1ull << 32 | 0x4500);
    assert_int_equal(rdmsr(r, 1, MSR_APIC_BASE), EN_X2APIC);
    assert_int_equal(rdmsr(r, 1, x2(ID)), 1);
}

static void test_errors(void **state)
{
    struct rig *r = *state;

    enable_all(r);
    wr(r, 0, ERROR, 0xfe);
    wr(r, 0, ICR, 0x0f);
    assert_int_equal(rd(r, 0, ESR), 0); /* latched by a write only */
    assert_int_equal(ack(r, 0), 0xfe);
    wr(r, 0, EOI, 0);
    wr(r, 0, 0x3d0, 1);
    assert_int_equal(ack(r, 0), -1); /* until ESR is written there is no second one */
    wr(r, 0, ESR, 0);
    assert_int_equal(rd(r, 0, ESR), 0xa0);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x05);
    assert_int_equal(ack(r, 0), 0xfe);
    wr(r, 0, EOI, 0);
    wr(r, 0, ESR, 0);
    assert_int_equal(rd(r, 0, ESR), 0x40);
    wr(r, 0, ESR, 0);
    assert_int_equal(rd(r, 0, ESR), 0);
}

static void test_odd_accesses(void **state)
{
    struct rig *r = *state;
    struct lapic *l = &r->cpu[0].lapic;

    enable_all(r);
    wr(r, 0, TPR, 0x35);
    assert_int_equal(lapic_mmio_read(l, TPR, 1), 0x35);
    assert_int_equal(lapic_mmio_read(l, VER, 2), 0x14);
    assert_int_equal(lapic_mmio_read(l, VER, 8) >> 32, 0);
    assert_int_equal(lapic_mmio_read(l, TPR + 4, 4), 0);
    lapic_mmio_write(l, TPR, 1, 0x10);
    lapic_mmio_write(l, TPR + 1, 4, 0x10);
    lapic_mmio_write(l, TPR, 8, 0x10);
    assert_int_equal(rd(r, 0, TPR), 0x35);
    for (unsigned off = 0; off < 0x1000; off++)
        for (unsigned size = 1; size <= 8; size *= 2) {
            lapic_mmio_read(l, off, size);
            lapic_mmio_write(l, off, size, ~0ull);
        }
}

static void test_x2apic_faults(void **state)
{
    struct rig *r = *state;
    static const u16 absent[] = {0x00, 0x01, 0x04, 0x09, 0x0c, 0x0e,
                                 0x29, 0x2f, 0x31, 0x3a, 0x40, 0xff};
    static const u16 read_only[] = {0x02, 0x03, 0x0a, 0x0d, 0x10, 0x17, 0x18, 0x20, 0x27, 0x39};
    static const u16 write_only[] = {0x0b, 0x3f};

    assert_int_equal(rdmsr_fails(r, 0, x2(ID)), -1); /* still an xAPIC */
    assert_int_equal(wrmsr(r, 0, x2(TPR), 0), -1);
    x2apic_all(r);
    for (unsigned i = 0; i < ARRAY_SIZE(absent); i++) {
        assert_int_equal(rdmsr_fails(r, 0, 0x800 + absent[i]), -1);
        assert_int_equal(wrmsr(r, 0, 0x800 + absent[i], 0), -1);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(read_only); i++) {
        assert_int_equal(rdmsr_fails(r, 0, 0x800 + read_only[i]), 0);
        assert_int_equal(wrmsr(r, 0, 0x800 + read_only[i], 0), -1);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(write_only); i++)
        assert_int_equal(rdmsr_fails(r, 0, 0x800 + write_only[i]), -1);
    assert_int_equal(wrmsr(r, 0, x2(TPR), 0x100), -1);
    assert_int_equal(wrmsr(r, 0, x2(TPR), 1ull << 32), -1);
    assert_int_equal(wrmsr(r, 0, x2(EOI), 1), -1);
    assert_int_equal(wrmsr(r, 0, x2(ESR), 1), -1);
    assert_int_equal(wrmsr(r, 0, x2(SVR), 0x400), -1);
    assert_int_equal(wrmsr(r, 0, x2(ICR), 1 << 13 | 0x51), -1);
    assert_int_equal(wrmsr(r, 0, x2(ICR), 1 << 20 | 0x51), -1);
    assert_int_equal(wrmsr(r, 0, x2(TIMER), 0x60051), -1);
    assert_int_equal(wrmsr(r, 0, x2(TDCR), 4), -1);
    assert_int_equal(wrmsr(r, 0, x2(SELF_IPI), 0x100), -1);
    assert_int_equal(wrmsr(r, 0, x2(SELF_IPI), 0x51), 0);
    assert_false(lapic_claims(&r->cpu[0].lapic, LAPIC_DEFAULT_BASE));
}

static void test_modes(void **state)
{
    struct rig *r = *state;
    u64 base = LAPIC_DEFAULT_BASE | APIC_BASE_BSP;

    enable_all(r);
    wr(r, 0, ID, 7u << 24);
    lapic_set_cr8(&r->cpu[0].lapic, 5);
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, base | APIC_BASE_EXTD), -1);
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, base | APIC_BASE_EN | 1), -1);
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, base | APIC_BASE_EN | BIT(39)), -1);
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, base | APIC_BASE_EN | APIC_BASE_EXTD), 0);
    assert_int_equal(rdmsr(r, 0, x2(ID)), 0);
    assert_int_equal(rdmsr(r, 0, x2(SVR)), 0x1ff); /* the rest is kept */
    assert_int_equal(rdmsr(r, 0, x2(TPR)), 0x50);
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, base | APIC_BASE_EN), -1);
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, base | APIC_BASE_EXTD), -1);
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, base), 0);
    assert_false(lapic_bus_msi(&r->bus, 0xfee00000, 0x51));
    assert_false(lapic_claims(&r->cpu[0].lapic, LAPIC_DEFAULT_BASE));
    assert_int_equal(lapic_cr8(&r->cpu[0].lapic), 5);
    lapic_set_cr8(&r->cpu[0].lapic, 6);
    assert_int_equal(lapic_cr8(&r->cpu[0].lapic), 6);
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, base | APIC_BASE_EN | APIC_BASE_EXTD), -1);
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, 0xfed40000 | APIC_BASE_BSP | APIC_BASE_EN), 0);
    assert_true(lapic_claims(&r->cpu[0].lapic, 0xfed40030));
    assert_int_equal(rd(r, 0, ID), 0);
    assert_int_equal(rd(r, 0, SVR), 0xff);
}

static void test_extint(void **state)
{
    struct rig *r = *state;

    r->pic = 0x38;
    lapic_setup_virtual_wire(&r->cpu[0].lapic);
    lapic_setup_virtual_wire(&r->cpu[1].lapic);
    lapic_bus_lint(&r->bus, 0, 1);
    assert_true(r->cpu[0].intr);
    assert_false(r->cpu[1].intr);
    wr(r, 0, LINT0, MASKED | 0x700);
    assert_false(r->cpu[0].intr);
    wr(r, 0, LINT0, 0x700);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x51);
    assert_int_equal(ack(r, 0), 0x38); /* the PIC's has no ISR bit and needs no EOI here */
    assert_int_equal(rd(r, 0, ISR + 0x10), 0);
    assert_int_equal(ack(r, 0), 0x51);
    wr(r, 0, EOI, 0);
    assert_false(r->cpu[0].intr);
    /* The PIC's interrupts disregard the TPR. */
    wr(r, 0, TPR, 0xff);
    lapic_bus_lint(&r->bus, 0, 1);
    assert_int_equal(ack(r, 0), 0x38);
    /* A message, as an I/O APIC sends it. */
    assert_true(lapic_bus_msi(&r->bus, 0xfee00000, 0x700));
    assert_true(r->cpu[0].intr);
    assert_int_equal(ack(r, 0), 0x38);
    assert_false(r->cpu[0].intr);
    /* Globally disabled: LINT0 is INTR and LINT1 is NMI, of the BSP. */
    assert_int_equal(wrmsr(r, 0, MSR_APIC_BASE, LAPIC_DEFAULT_BASE | APIC_BASE_BSP), 0);
    lapic_bus_lint(&r->bus, 0, 1);
    assert_int_equal(ack(r, 0), 0x38);
    lapic_bus_lint(&r->bus, 1, 1);
    assert_int_equal(r->cpu[0].nmi, 1);
}

static void test_lint(void **state)
{
    struct rig *r = *state;

    enable_all(r);
    lapic_setup_virtual_wire(&r->cpu[0].lapic);
    lapic_bus_lint(&r->bus, 1, 1);
    lapic_bus_lint(&r->bus, 1, 1);
    assert_int_equal(r->cpu[0].nmi, 1);
    assert_int_equal(r->cpu[1].nmi, 0);
    lapic_bus_lint(&r->bus, 1, 0);
    lapic_bus_lint(&r->bus, 1, 1);
    assert_int_equal(r->cpu[0].nmi, 2);
    /* LINT0 as a level-triggered fixed interrupt comes again until the wire falls. */
    wr(r, 0, LINT0, 0x8045);
    lapic_bus_lint(&r->bus, 0, 1);
    assert_int_equal(rd(r, 0, LINT0), 0xc045);
    assert_int_equal(ack(r, 0), 0x45);
    wr(r, 0, EOI, 0);
    assert_int_equal(ack(r, 0), 0x45);
    lapic_bus_lint(&r->bus, 0, 0);
    wr(r, 0, EOI, 0);
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(rd(r, 0, LINT0), 0x8045);
    /* As an edge it comes once. */
    wr(r, 0, LINT0, 0x46);
    lapic_bus_lint(&r->bus, 0, 1);
    assert_int_equal(takers(r, 0x46), 1);
    assert_int_equal(ack(r, 0), -1);
}

static void test_timer_one_shot(void **state)
{
    struct rig *r = *state;

    enable_all(r);
    wr(r, 0, TIMER, 0xee);
    wr(r, 0, TDCR, 0xb); /* by 1 */
    wr(r, 0, TMICT, 5000);
    assert_int_equal(rd(r, 0, TMCCT), 5000);
    go(r, 2000);
    assert_int_equal(rd(r, 0, TMCCT), 4000);
    go(r, 5999);
    assert_int_equal(rd(r, 0, TMCCT), 1);
    assert_false(r->cpu[0].intr);
    go(r, 6000);
    assert_int_equal(rd(r, 0, TMCCT), 0);
    assert_int_equal(takers(r, 0xee), 1);
    assert_int_equal(rd(r, 0, TMICT), 5000);
    go(r, 1000000);
    assert_false(r->cpu[0].intr);
    /* Spent, it stays at zero when it is made periodic. */
    wr(r, 0, TIMER, PERIODIC | 0xee);
    assert_int_equal(rd(r, 0, TMCCT), 0);
    /* Nor does it begin anew if nobody has come to run the clock since: it has fired, as it was. */
    wr(r, 0, TIMER, 0xee);
    wr(r, 0, TMICT, 5000);
    r->now += 5001;
    wr(r, 0, TIMER, PERIODIC | 0xef);
    assert_int_equal(rd(r, 0, TMCCT), 0);
    assert_int_equal(takers(r, 0xee), 1);
    assert_int_equal(clock_next(&r->clock), CLOCK_NEVER);
    /* The divider: by 2 after reset, by 128 at most; the count goes on where it was. */
    wr(r, 0, TIMER, 0xee);
    wr(r, 0, TDCR, 0);
    wr(r, 0, TMICT, 1000);
    go(r, r->now + 1000);
    assert_int_equal(rd(r, 0, TMCCT), 500);
    wr(r, 0, TDCR, 0xa);
    assert_int_equal(rd(r, 0, TMCCT), 500);
    go(r, r->now + 128 * 499);
    assert_int_equal(rd(r, 0, TMCCT), 1);
    go(r, r->now + 128);
    assert_int_equal(takers(r, 0xee), 1);
    wr(r, 0, TMICT, 1000);
    wr(r, 0, TMICT, 0);
    assert_int_equal(clock_next(&r->clock), CLOCK_NEVER);
    /* Masked it counts and says nothing. */
    wr(r, 0, TIMER, MASKED | 0xee);
    wr(r, 0, TMICT, 1);
    go(r, r->now + 1000);
    assert_int_equal(ack(r, 0), -1);
}

static void test_timer_periodic(void **state)
{
    struct rig *r = *state;

    enable_all(r);
    wr(r, 0, TIMER, PERIODIC | 0xee);
    wr(r, 0, TDCR, 0xb);
    wr(r, 0, TMICT, 100000);
    for (unsigned i = 1; i < 10; i++) {
        go(r, 1000 + 100000 * i - 1);
        assert_false(r->cpu[0].intr);
        go(r, 1000 + 100000 * i);
        assert_int_equal(takers(r, 0xee), 1);
        assert_int_equal(rd(r, 0, TMCCT), 100000);
    }
    /* A host that comes late loses ticks but not the phase. */
    r->now = 1000 + 1250000;
    clock_run(&r->clock);
    assert_int_equal(takers(r, 0xee), 1);
    assert_int_equal(rd(r, 0, TMCCT), 50000);
    assert_int_equal(clock_next(&r->clock), 1000 + 1300000);
    /* To one-shot: the count goes on, and ends. */
    wr(r, 0, TIMER, 0xee);
    assert_int_equal(rd(r, 0, TMCCT), 50000);
    go(r, 1000 + 1300000);
    assert_int_equal(takers(r, 0xee), 1);
    assert_int_equal(clock_next(&r->clock), CLOCK_NEVER);
    /* A silly period does not keep the host busy. */
    wr(r, 0, TIMER, PERIODIC | 0xee);
    wr(r, 0, TMICT, 1);
    r->now += 10;
    clock_run(&r->clock);
    assert_true(clock_next(&r->clock) >= r->now + 10000);
}

static void test_timer_deadline(void **state)
{
    struct rig *r = *state;

    enable_all(r);
    assert_int_equal(wrmsr(r, 0, MSR_TSC_DEADLINE, 5000), 0);
    assert_int_equal(rdmsr(r, 0, MSR_TSC_DEADLINE), 0); /* not in that mode: ignored */
    wr(r, 0, TIMER, DEADLINE | 0xef);
    wr(r, 0, TMICT, 100);
    assert_int_equal(rd(r, 0, TMICT), 0);
    assert_int_equal(wrmsr(r, 0, MSR_TSC_DEADLINE, 5001), 0);
    assert_int_equal(rdmsr(r, 0, MSR_TSC_DEADLINE), 5001);
    go(r, 2500);
    assert_false(r->cpu[0].intr);
    go(r, 2501);
    assert_int_equal(takers(r, 0xef), 1);
    assert_int_equal(rdmsr(r, 0, MSR_TSC_DEADLINE), 0);
    /* Already past: at once. */
    assert_int_equal(wrmsr(r, 0, MSR_TSC_DEADLINE, tsc_now(&r->cpu[0])), 0);
    assert_int_equal(rdmsr(r, 0, MSR_TSC_DEADLINE), 0);
    assert_int_equal(takers(r, 0xef), 1);
    /* Disarmed by zero, and by leaving the mode. */
    wrmsr(r, 0, MSR_TSC_DEADLINE, 9000);
    wrmsr(r, 0, MSR_TSC_DEADLINE, 0);
    assert_int_equal(clock_next(&r->clock), CLOCK_NEVER);
    wrmsr(r, 0, MSR_TSC_DEADLINE, 9000);
    wr(r, 0, TIMER, 0xef);
    assert_int_equal(clock_next(&r->clock), CLOCK_NEVER);
    assert_int_equal(rdmsr(r, 0, MSR_TSC_DEADLINE), 0);
    /* The guest sets its TSC: the deadline moves. */
    wr(r, 0, TIMER, DEADLINE | 0xef);
    wrmsr(r, 0, MSR_TSC_DEADLINE, 9000);
    assert_int_equal(clock_next(&r->clock), 4500);
    r->tsc_offset = 1000;
    lapic_tsc_changed(&r->cpu[0].lapic);
    assert_int_equal(clock_next(&r->clock), 4000);
    r->tsc_offset = 10000;
    lapic_tsc_changed(&r->cpu[0].lapic);
    assert_int_equal(takers(r, 0xef), 1);
}

static void test_state(void **state)
{
    struct rig *r = *state;
    struct state s;
    u8 *copy;
    size_t len;

    enable_all(r);
    wr(r, 0, TIMER, PERIODIC | 0xee);
    wr(r, 0, TDCR, 0xb);
    wr(r, 0, TMICT, 100000);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x8061);
    lapic_bus_msi(&r->bus, 0xfee00000, 0x45);
    assert_int_equal(ack(r, 0), 0x61);
    state_init_save(&s);
    lapic_state(&r->cpu[0].lapic, &s);
    assert_false(s.failed);
    copy = s.buf;
    len = s.len;

    build(r);
    r->loading = true;
    r->now = 51000;
    struct state in;
    state_init_load(&in, copy, len);
    lapic_state(&r->cpu[0].lapic, &in);
    assert_false(in.failed);
    assert_int_equal(in.pos, len);
    assert_int_equal(rd(r, 0, TMCCT), 50000);
    assert_int_equal(clock_next(&r->clock), 101000);
    wr(r, 0, EOI, 0);
    assert_int_equal(r->eoi, 0x61);
    assert_int_equal(takers(r, 0x45), 1);
    go(r, 101000);
    assert_int_equal(takers(r, 0xee), 1);

    /* Damaged: refused or harmless, at every byte and every length. */
    for (size_t i = 0; i < len; i++) {
        copy[i] ^= 0xff;
        state_init_load(&in, copy, len);
        lapic_state(&r->cpu[0].lapic, &in);
        ack(r, 0);
        rd(r, 0, TMCCT);
        go(r, r->now + 1000000);
        copy[i] ^= 0xff;
        state_init_load(&in, copy, i);
        lapic_state(&r->cpu[0].lapic, &in);
        assert_true(in.failed);
    }
    state_free(&s);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(reset),
        T(priorities),
        T(level_eoi),
        T(software_disable),
        T(destinations_xapic),
        T(destinations_x2apic),
        T(lowest_priority),
        T(nmi_init_sipi),
        T(errors),
        T(odd_accesses),
        T(x2apic_faults),
        T(modes),
        T(extint),
        T(lint),
        T(timer_one_shot),
        T(timer_periodic),
        T(timer_deadline),
        T(state),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
