/* KVM's hypercalls: what is answered, and whom an IPI reaches. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "pv/hypercall.h"

#define NCPU 3

struct side {
    bool intr;
    unsigned nmi;
};

struct rig {
    struct clock clock;
    struct lapic_bus bus;
    struct lapic lapic[NCPU];
    struct side side[NCPU];
};

static u64 now(struct clock *c)
{
    return 0;
}

static void on_intr(void *arg, bool pending)
{
    ((struct side *)arg)->intr = pending;
}

static void on_nmi(void *arg)
{
    ((struct side *)arg)->nmi++;
}

static int setup(void **state)
{
    static const struct lapic_ops ops = {.intr = on_intr, .nmi = on_nmi};
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    r->clock.now = now;
    lapic_bus_init(&r->bus);
    for (unsigned i = 0; i < NCPU; i++) {
        struct lapic_config cfg = {.apic_id = i,
                                   .bsp = i == 0,
                                   .x2apic = true,
                                   .phys_bits = 46,
                                   .clock = &r->clock,
                                   .ops = &ops,
                                   .arg = &r->side[i]};
        lapic_init(&r->lapic[i], &r->bus, &cfg);
        lapic_mmio_write(&r->lapic[i], 0xf0, 4, 0x1ff);
    }
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static s64 call(struct rig *r, struct kvm_call c)
{
    return (s64)kvm_hypercall(&c, &r->bus);
}

static void test_refusals(void **state)
{
    struct rig *r = *state;
    assert_int_equal(call(r, (struct kvm_call){.nr = 5, .cpl = 3}), -KVM_EPERM);
    assert_int_equal(call(r, (struct kvm_call){.nr = KVM_HC_SEND_IPI, .cpl = 1}), -KVM_EPERM);
    assert_int_equal(call(r, (struct kvm_call){.nr = 5}), -KVM_ENOSYS);
    assert_int_equal(call(r, (struct kvm_call){.nr = UINT64_MAX}), -KVM_ENOSYS);
    assert_int_equal(call(r, (struct kvm_call){.nr = KVM_HC_VAPIC_POLL_IRQ}), 0);
}

static s64 ipi(struct rig *r, bool wide, u64 low, u64 high, u64 min, u64 icr)
{
    return call(
        r, (struct kvm_call){.nr = KVM_HC_SEND_IPI, .arg = {low, high, min, icr}, .wide = wide});
}

static void test_ipi(void **state)
{
    struct rig *r = *state;
    assert_int_equal(ipi(r, true, 0x6, 0, 0, 0x41), 2);
    assert_false(r->side[0].intr);
    assert_int_equal(lapic_ack(&r->lapic[1]), 0x41);
    assert_int_equal(lapic_ack(&r->lapic[2]), 0x41);
    assert_int_equal(ipi(r, true, 0x2, 0, 1, 0x400), 1); /* an NMI, for id 2 */
    assert_int_equal(r->side[2].nmi, 1);
    /* Bit 0 of the high half is bit 32 or 64 of the whole: nobody has such an id. */
    assert_int_equal(ipi(r, false, 0, 1, 0, 0x51), 0);
    assert_int_equal(ipi(r, true, UINT64_MAX, UINT64_MAX, 0xffffffff, 0x51), 0);
    assert_int_equal(ipi(r, true, UINT64_MAX, UINT64_MAX, 250, 0x51), 0);
    assert_int_equal(ipi(r, true, 1, 0, 0, 0x851), -KVM_EINVAL);   /* logical */
    assert_int_equal(ipi(r, true, 1, 0, 0, 0x80051), -KVM_EINVAL); /* a shorthand */
    assert_int_equal(ipi(r, true, 1, 0, 0, 0x551), -KVM_EINVAL);   /* INIT */
    for (unsigned i = 0; i < NCPU; i++)
        assert_false(r->side[i].intr && lapic_ack(&r->lapic[i]) == 0x51);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ipi, setup, teardown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
