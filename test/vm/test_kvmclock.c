/* The paravirtual clock, read as a guest reads it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "pv/kvmclock.h"

#define TSC_HZ 2400000000ull

struct rig {
    struct mem mem;
    struct kvmclock k;
};

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct err e;

    *state = r;
    if (!r || mem_init(&r->mem, &e) || mem_add_ram(&r->mem, 0, 1 * MiB, false, &e) ||
        mem_add_ram(&r->mem, 1 * MiB, 4096, true, &e))
        return -1;
    kvmclock_init(&r->k, &r->mem, TSC_HZ, true);
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    mem_free(&r->mem);
    free(r);
    return 0;
}

static struct pvclock_time_info info(struct rig *r, gpa_t at)
{
    struct pvclock_time_info i;

    assert_int_equal(mem_read(&r->mem, at, &i, sizeof(i)), 0);
    return i;
}

/* What a guest computes, in its 64-bit arithmetic with a 96-bit product. */
static u64 guest_ns(const struct pvclock_time_info *i, u64 tsc)
{
    u64 delta = tsc - i->tsc_timestamp;

    delta = i->tsc_shift >= 0 ? delta << i->tsc_shift : delta >> -i->tsc_shift;
    return i->system_time + (u64)((u128)delta * i->tsc_to_system_mul >> 32);
}

static void test_scale(void **state)
{
    static const u64 rates[] = {1,          1000,          999999999,      1000000000, 1000000001,
                                1999999999, 2000000000,    2000000001,     2400000000, 3700000000,
                                4000000000, 8000000001ull, 10000000000ull, UINT64_MAX};

    for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
        struct pvclock_time_info p = {0};
        u64 seconds = rates[i] > 1u << 30 ? 1 : 4, ns;

        kvmclock_scale(rates[i], &p.tsc_to_system_mul, &p.tsc_shift);
        assert_true(p.tsc_to_system_mul >= 1u << 31);
        ns = guest_ns(&p, rates[i] * seconds);
        assert_in_range(ns, seconds * NSEC_PER_SEC - 2 * seconds, seconds * NSEC_PER_SEC);
    }
}

static void test_system_time(void **state)
{
    struct rig *r = *state;
    struct kvmclock_time t = {.tsc = 7777, .ns = 5 * NSEC_PER_SEC};
    struct pvclock_time_info i;
    u64 v;

    assert_int_equal(kvmclock_msr_write(&r->k, MSR_KVM_SYSTEM_TIME_NEW, 0x5041, &t), 0);
    i = info(r, 0x5040);
    assert_int_equal(i.version & 1, 0);
    assert_int_not_equal(i.version, 0);
    assert_int_equal(i.tsc_timestamp, 7777);
    assert_int_equal(i.system_time, 5 * NSEC_PER_SEC);
    assert_int_equal(i.flags, PVCLOCK_TSC_STABLE);
    assert_in_range(guest_ns(&i, 7777 + TSC_HZ), 6 * NSEC_PER_SEC - 2, 6 * NSEC_PER_SEC);
    assert_int_equal(kvmclock_msr_read(&r->k, MSR_KVM_SYSTEM_TIME, &v), 0);
    assert_int_equal(v, 0x5041);

    t = (struct kvmclock_time){.tsc = 9999, .ns = 8 * NSEC_PER_SEC};
    u32 version = i.version;
    kvmclock_update(&r->k, &t, PVCLOCK_GUEST_STOPPED);
    i = info(r, 0x5040);
    assert_int_equal(i.version, version + 2);
    assert_int_equal(i.system_time, 8 * NSEC_PER_SEC);
    assert_int_equal(i.flags, PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED);

    /* Off: nothing is written any more. */
    assert_int_equal(kvmclock_msr_write(&r->k, MSR_KVM_SYSTEM_TIME, 0x5040, &t), 0);
    t.ns = 1;
    kvmclock_update(&r->k, &t, 0);
    assert_int_equal(info(r, 0x5040).version, version + 2);
}

static void test_wall_clock(void **state)
{
    struct rig *r = *state;
    struct kvmclock_time t = {.ns = 1500000000, .wall_ns = 1700000001ull * NSEC_PER_SEC + 7};
    struct pvclock_wall_clock w;
    u32 before;

    for (unsigned i = 0; i < 2; i++) {
        mem_read(&r->mem, 0x6000, &before, 4);
        assert_int_equal(
            kvmclock_msr_write(&r->k, i ? MSR_KVM_WALL_CLOCK : MSR_KVM_WALL_CLOCK_NEW, 0x6000, &t),
            0);
        mem_read(&r->mem, 0x6000, &w, sizeof(w));
        assert_int_equal(w.version, before + 2);
        assert_int_equal(w.sec, 1699999999);
        assert_int_equal(w.nsec, 500000007);
    }
}

static void test_bad_addresses(void **state)
{
    static const u64 bad[] = {0xfffff,  0xffff1,        0x100001, 0x100fff,
                              0x101001, 1ull << 40 | 1, ~0ull,    ~0ull - 31};
    struct rig *r = *state;
    struct kvmclock_time t = {1, 2, 3};
    u8 rom[4096];
    u64 v;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(kvmclock_msr_write(&r->k, MSR_KVM_SYSTEM_TIME_NEW, bad[i], &t), 0);
        assert_int_equal(kvmclock_msr_write(&r->k, MSR_KVM_WALL_CLOCK_NEW, bad[i], &t), 0);
    }
    mem_read(&r->mem, 1 * MiB, rom, sizeof(rom));
    for (unsigned i = 0; i < sizeof(rom); i++)
        assert_int_equal(rom[i], 0);
    for (u32 msr = 0x4b564d02; msr <= 0x4b564d07; msr++) {
        assert_int_equal(kvmclock_msr_write(&r->k, msr, 0, &t), -1);
        assert_int_equal(kvmclock_msr_read(&r->k, msr, &v), -1);
    }
}

static void test_state(void **state)
{
    struct rig *r = *state;
    struct kvmclock_time t = {1, 2, 3};
    struct kvmclock k2;
    struct state s, in;

    kvmclock_msr_write(&r->k, MSR_KVM_SYSTEM_TIME_NEW, 0x5001, &t);
    state_init_save(&s);
    kvmclock_state(&r->k, &s);
    kvmclock_init(&k2, &r->mem, TSC_HZ / 2, true); /* resumed on another host */
    state_init_load(&in, s.buf, s.len);
    kvmclock_state(&k2, &in);
    assert_false(in.failed);
    u32 version = info(r, 0x5000).version;
    kvmclock_update(&k2, &t, 0);
    assert_int_equal(info(r, 0x5000).version, version + 2);
    assert_int_equal(info(r, 0x5000).tsc_shift, r->k.shift + 1);
    state_free(&s);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scale), T(system_time), T(wall_clock),
                                       T(bad_addresses), T(state)};

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
