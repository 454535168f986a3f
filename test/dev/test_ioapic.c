/* Transcripts of the I/O APIC with two LAPICs behind it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "dev/ioapic.h"
#include "dev/irq.h"

#define EDGE    0x0000u
#define LEVEL   0x8000u
#define LOGICAL 0x0800u
#define MASKED  0x10000u
#define RIRR    0x4000u

struct rig {
    struct clock clock;
    struct lapic_bus lapics;
    struct lapic cpu[2];
    struct ioapic io;
    struct bus mmio;
    unsigned nmi;
};

static u64 now(struct clock *c)
{
    return 0;
}

static void on_intr(void *arg, bool pending)
{
}

static void on_nmi(void *arg)
{
    ((struct rig *)arg)->nmi++;
}

static void on_sipi(void *arg, u8 vector)
{
    fail();
}

static void on_init(void *arg)
{
}

static int on_extint(void *arg)
{
    return 0x08;
}

static const struct lapic_ops ops = {
    .intr = on_intr, .nmi = on_nmi, .init = on_init, .sipi = on_sipi, .extint_ack = on_extint};

static void wr(struct rig *r, unsigned reg, u32 val)
{
    bus_write(&r->mmio, IOAPIC_DEFAULT_BASE, 4, reg);
    bus_write(&r->mmio, IOAPIC_DEFAULT_BASE + 0x10, 4, val);
}

static u32 rd(struct rig *r, unsigned reg)
{
    bus_write(&r->mmio, IOAPIC_DEFAULT_BASE, 4, reg);
    return (u32)bus_read(&r->mmio, IOAPIC_DEFAULT_BASE + 0x10, 4);
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));

    *state = r;
    if (!r)
        return -1;
    r->clock.now = now;
    lapic_bus_init(&r->lapics);
    for (unsigned i = 0; i < 2; i++) {
        struct lapic_config c = {.apic_id = i,
                                 .bsp = i == 0,
                                 .phys_bits = 40,
                                 .clock = &r->clock,
                                 .ops = &ops,
                                 .arg = r};

        lapic_init(&r->cpu[i], &r->lapics, &c);
        lapic_mmio_write(&r->cpu[i], 0xf0, 4, 0x1ff);
        lapic_mmio_write(&r->cpu[i], 0xd0, 4, 1u << (24 + i));
    }
    ioapic_init(&r->io, &r->lapics, 2);
    r->lapics.eoi = ioapic_eoi;
    r->lapics.eoi_arg = &r->io;
    return bus_add(&r->mmio, IOAPIC_DEFAULT_BASE, IOAPIC_SIZE, &ioapic_bus_ops, &r->io, "ioapic");
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void redir(struct rig *r, unsigned pin, u32 low, u8 dest)
{
    wr(r, 0x10 + 2 * pin, low);
    wr(r, 0x11 + 2 * pin, (u32)dest << 24);
}

static int ack(struct rig *r, unsigned cpu)
{
    return lapic_ack(&r->cpu[cpu]);
}

static void eoi(struct rig *r, unsigned cpu)
{
    lapic_mmio_write(&r->cpu[cpu], 0xb0, 4, 0);
}

static void test_registers(void **state)
{
    struct rig *r = *state;

    assert_int_equal(rd(r, 1), 0x00170020);
    wr(r, 1, 0);
    assert_int_equal(rd(r, 1), 0x00170020);
    assert_int_equal(rd(r, 0), 0x02000000);
    wr(r, 0, ~0x02000000u);
    assert_int_equal(rd(r, 0), 0x0d000000);
    assert_int_equal(rd(r, 2), 0x0d000000);
    wr(r, 2, 0);
    assert_int_equal(rd(r, 2), 0x0d000000);
    for (unsigned pin = 0; pin < 24; pin++)
        assert_int_equal(rd(r, 0x10 + 2 * pin), MASKED);
    redir(r, 23, 0xffffffff, 0x55);
    assert_int_equal(rd(r, 0x10 + 46), 0x1afff); /* status and remote IRR are read-only */
    assert_int_equal(rd(r, 0x11 + 46), 0x55000000);
    assert_int_equal(rd(r, 0x40), 0);
    wr(r, 0x40, ~0u);
    wr(r, 0xff, ~0u);
    assert_int_equal(rd(r, 0xff), 0);
    for (unsigned off = 0; off < IOAPIC_SIZE; off++)
        for (unsigned size = 1; size <= 8 && off + size <= IOAPIC_SIZE; size *= 2) {
            bus_read(&r->mmio, IOAPIC_DEFAULT_BASE + off, size);
            bus_write(&r->mmio, IOAPIC_DEFAULT_BASE + off, size, ~0ull);
        }
}

static void test_edge(void **state)
{
    struct rig *r = *state;
    struct irq wire = {ioapic_set, &r->io, 14};

    redir(r, 14, EDGE | 0x76, 0);
    irq_set(&wire, 1);
    assert_int_equal(ack(r, 0), 0x76);
    assert_int_equal(rd(r, 0x10 + 28), 0x76);
    irq_set(&wire, 1); /* not a rise */
    eoi(r, 0);
    assert_int_equal(ack(r, 0), -1);
    irq_set(&wire, 0);
    irq_set(&wire, 1);
    assert_int_equal(ack(r, 0), 0x76);
    eoi(r, 0);
    irq_set(&wire, 0);
    /* What comes while it is masked is lost. */
    redir(r, 14, MASKED | EDGE | 0x76, 0);
    irq_set(&wire, 1);
    redir(r, 14, EDGE | 0x76, 0);
    assert_int_equal(ack(r, 0), -1);
    irq_set(&wire, 0);
    irq_set(&wire, 1);
    assert_int_equal(ack(r, 0), 0x76);
    ioapic_set(&r->io, 24, 1);
    ioapic_set(&r->io, ~0u, 1);
}

static void test_level(void **state)
{
    struct rig *r = *state;

    redir(r, 14, LEVEL | 0x77, 1);
    ioapic_set(&r->io, 14, 1);
    assert_int_equal(ack(r, 0), -1);
    assert_int_equal(ack(r, 1), 0x77);
    assert_int_equal(rd(r, 0x10 + 28), RIRR | LEVEL | 0x77);
    /* Falls and rises before the EOI: one more, and only if it is up at the EOI. */
    ioapic_set(&r->io, 14, 0);
    ioapic_set(&r->io, 14, 1);
    assert_int_equal(ack(r, 1), -1);
    eoi(r, 1);
    assert_int_equal(ack(r, 1), 0x77);
    ioapic_set(&r->io, 14, 0);
    eoi(r, 1);
    assert_int_equal(ack(r, 1), -1);
    assert_int_equal(rd(r, 0x10 + 28), LEVEL | 0x77);
    /* Masked it waits; unmasked it comes. Masked in the handler, it comes again when unmasked. */
    redir(r, 14, MASKED | LEVEL | 0x77, 1);
    ioapic_set(&r->io, 14, 1);
    assert_int_equal(ack(r, 1), -1);
    wr(r, 0x10 + 28, LEVEL | 0x77);
    assert_int_equal(ack(r, 1), 0x77);
    wr(r, 0x10 + 28, MASKED | LEVEL | 0x77);
    eoi(r, 1);
    assert_int_equal(ack(r, 1), -1);
    wr(r, 0x10 + 28, LEVEL | 0x77);
    assert_int_equal(ack(r, 1), 0x77);
    /* The EOI register, and edge mode, free it without a LAPIC's EOI. */
    ioapic_set(&r->io, 14, 0);
    bus_write(&r->mmio, IOAPIC_DEFAULT_BASE + 0x40, 4, 0x78);
    assert_int_equal(rd(r, 0x10 + 28), RIRR | LEVEL | 0x77);
    bus_write(&r->mmio, IOAPIC_DEFAULT_BASE + 0x40, 4, 0x77);
    assert_int_equal(rd(r, 0x10 + 28), LEVEL | 0x77);
    ioapic_set(&r->io, 14, 1);
    assert_int_equal(rd(r, 0x10 + 28), RIRR | LEVEL | 0x77);
    wr(r, 0x10 + 28, MASKED | EDGE | 0x77);
    assert_int_equal(rd(r, 0x10 + 28), MASKED | 0x77);
}

/* The handler moves its own interrupt to another CPU: the EOI is still found. */
static void test_reconfigure(void **state)
{
    struct rig *r = *state;

    redir(r, 13, LEVEL | 0x64, 0);
    ioapic_set(&r->io, 13, 1);
    assert_int_equal(ack(r, 0), 0x64);
    ioapic_set(&r->io, 13, 0);
    wr(r, 0x11 + 26, 1u << 24);
    assert_int_equal(rd(r, 0x10 + 26), RIRR | LEVEL | 0x64);
    eoi(r, 0);
    assert_int_equal(rd(r, 0x10 + 26), LEVEL | 0x64);
}

static void test_destinations(void **state)
{
    struct rig *r = *state;

    redir(r, 5, LEVEL | LOGICAL | 0x86, 3);
    ioapic_set(&r->io, 5, 1);
    ioapic_set(&r->io, 5, 0);
    assert_int_equal(ack(r, 0), 0x86);
    assert_int_equal(ack(r, 1), 0x86);
    eoi(r, 0);
    eoi(r, 1);
    redir(r, 5, LOGICAL | 0x186, 3); /* lowest priority: one of them */
    ioapic_set(&r->io, 5, 1);
    assert_true((ack(r, 0) == 0x86) ^ (ack(r, 1) == 0x86));
    redir(r, 6, 0x400, 0xff);
    ioapic_set(&r->io, 6, 1);
    assert_int_equal(r->nmi, 2);
    redir(r, 7, LEVEL | 0x400, 0); /* an NMI is an edge: no remote IRR to wait for */
    ioapic_set(&r->io, 7, 1);
    assert_int_equal(r->nmi, 3);
    assert_int_equal(rd(r, 0x10 + 14), LEVEL | 0x400);
    redir(r, 0, 0x700, 0);
    ioapic_set(&r->io, 0, 1);
    assert_int_equal(ack(r, 0), 0x08);
    redir(r, 8, 0x600, 0); /* no SIPI from here */
    ioapic_set(&r->io, 8, 1);
    redir(r, 9, LEVEL | 0x99, 0x77); /* nobody: no EOI would come, so it can be sent again */
    ioapic_set(&r->io, 9, 1);
    assert_int_equal(rd(r, 0x10 + 18), LEVEL | 0x99);
}

static void test_state(void **state)
{
    struct rig *r = *state;
    struct state s, in;

    redir(r, 14, LEVEL | 0x77, 0);
    ioapic_set(&r->io, 14, 1);
    assert_int_equal(ack(r, 0), 0x77);
    state_init_save(&s);
    ioapic_state(&r->io, &s);
    ioapic_init(&r->io, &r->lapics, 2);
    state_init_load(&in, s.buf, s.len);
    ioapic_state(&r->io, &in);
    assert_false(in.failed);
    assert_int_equal(rd(r, 0x10 + 28), RIRR | LEVEL | 0x77);
    eoi(r, 0);
    assert_int_equal(ack(r, 0), 0x77);
    s.buf[s.len - 3] = 1; /* a reserved bit of the last entry */
    state_init_load(&in, s.buf, s.len);
    ioapic_state(&r->io, &in);
    assert_true(in.failed);
    assert_int_equal(rd(r, 0x10 + 28), MASKED);
    state_free(&s);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {T(registers),   T(edge),         T(level),
                                       T(reconfigure), T(destinations), T(state)};

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
