#include "dev/hpet.h"
#include "hand.h"

#define BASE      0xfed00000ull
#define CAP       0x000
#define CFG       0x010
#define ISR       0x020
#define CNT       0x0f0
#define TN_CFG(n) (0x100 + 0x20 * (n))
#define TN_CMP(n) (0x108 + 0x20 * (n))

#define LEVEL    0x002
#define ENABLE   0x004
#define PERIODIC 0x008
#define SETVAL   0x040
#define MODE32   0x100
#define ROUTE(n) ((u64)(n) << 9)

struct bench {
    struct hand h;
    struct hpet hpet;
    struct wire pin20, pin21, irq0, irq8;
    int legacy;
};

static void on_legacy(void *arg, bool on)
{
    struct bench *b = arg;
    b->legacy = on;
}

static void start(struct bench *b)
{
    *b = (struct bench){.h = {.clock = {.now = hand_now}, .mmio = {.name = "mmio"}}, .legacy = -1};
    struct hpet_wires w = {.route_cap = 0x00f00000, .legacy_route = on_legacy, .arg = b};
    w.pin[20] = wire_irq(&b->pin20);
    w.pin[21] = wire_irq(&b->pin21);
    w.legacy[0] = wire_irq(&b->irq0);
    w.legacy[1] = wire_irq(&b->irq8);
    b->h.now = 1000007; /* not a multiple of the period */
    hpet_init(&b->hpet, &b->h.clock, &w);
    assert_int_equal(hpet_attach(&b->hpet, &b->h.mmio, BASE), 0);
}

static u64 rd(struct bench *b, u64 reg)
{
    return bus_read(&b->h.mmio, BASE + reg, 8);
}

static u32 rd32(struct bench *b, u64 reg)
{
    return bus_read(&b->h.mmio, BASE + reg, 4);
}

static void wr(struct bench *b, u64 reg, u64 val)
{
    bus_write(&b->h.mmio, BASE + reg, 8, val);
}

static void wr32(struct bench *b, u64 reg, u32 val)
{
    bus_write(&b->h.mmio, BASE + reg, 4, val);
}

/* `n` periods later; the clock stands 7 ns into one. */
static void tick(struct bench *b, u64 n)
{
    hand_pass(&b->h, n * HPET_PERIOD_NS);
}

static void test_identity(void **state)
{
    struct bench b;
    start(&b);
    assert_true(rd(&b, CAP) == 0x009896808086a201);
    assert_int_equal(rd32(&b, CAP + 4), 10000000);
    wr(&b, CAP, 0);
    assert_true(rd(&b, CAP) == 0x009896808086a201);
    assert_true(rd(&b, TN_CFG(0)) == (0x00f0000000000030 | ROUTE(20)));
    assert_true(rd(&b, TN_CMP(2)) == ~0ull);
    assert_true(rd(&b, 0x160) == 0);
    assert_true(rd(&b, 0x3f8) == 0);
    wr(&b, TN_CFG(1), ~0ull); /* what is writable; route 31 is not allowed */
    assert_true(rd(&b, TN_CFG(1)) == (0x00f0000000000030 | ROUTE(20) | 0x10e));
    wr(&b, TN_CFG(1), ROUTE(22));
    assert_true((rd(&b, TN_CFG(1)) & 0xffff) == (ROUTE(22) | 0x30));
}

static void test_counter(void **state)
{
    struct bench b;
    start(&b);
    tick(&b, 5);
    assert_true(rd(&b, CNT) == 0);
    wr(&b, CFG, 1);
    tick(&b, 100);
    assert_true(rd(&b, CNT) == 100);
    wr(&b, CFG, 0);
    tick(&b, 100);
    assert_true(rd(&b, CNT) == 100);
    wr(&b, CNT, 0x1fffffff0);
    assert_int_equal(rd32(&b, CNT), 0xfffffff0);
    assert_int_equal(rd32(&b, CNT + 4), 1);
    wr(&b, CFG, 1);
    tick(&b, 0x20);
    assert_true(rd(&b, CNT) == 0x200000010);
    wr32(&b, CNT + 4, 7);
    assert_true(rd(&b, CNT) == 0x700000010);
    bus_write(&b.h.mmio, BASE + CNT, 2, 0); /* not a width that it takes */
    assert_true(rd(&b, CNT) == 0x700000010);
}

static void test_one_shot(void **state)
{
    struct bench b;
    start(&b);
    wr(&b, TN_CFG(0), ENABLE | ROUTE(20));
    wr(&b, TN_CMP(0), 1000);
    assert_true(clock_next(&b.h.clock) == CLOCK_NEVER); /* halted */
    wr(&b, CFG, 1);
    tick(&b, 999);
    assert_int_equal(b.pin20.rises, 0);
    tick(&b, 1);
    assert_int_equal(b.pin20.rises, 1);
    assert_int_equal(b.pin20.level, 0); /* an edge */
    assert_true(rd(&b, ISR) == 0);
    tick(&b, 10000000);
    assert_int_equal(b.pin20.rises, 1);
    wr(&b, TN_CMP(0), 5); /* past: the counter will not meet it */
    tick(&b, 10000000);
    assert_int_equal(b.pin20.rises, 1);
}

static void test_32_bits(void **state)
{
    struct bench b;
    start(&b);
    wr(&b, TN_CFG(0), ENABLE | MODE32 | ROUTE(20));
    assert_true(rd(&b, TN_CMP(0)) == 0xffffffff);
    wr(&b, TN_CMP(0), 0x123400000010);
    assert_true(rd(&b, TN_CMP(0)) == 0x10);
    wr(&b, CNT, 0xfffffff0);
    wr(&b, CFG, 1);
    tick(&b, 0x1f);
    assert_int_equal(b.pin20.rises, 0);
    tick(&b, 1); /* the low half has come round */
    assert_int_equal(b.pin20.rises, 1);
    tick(&b, 0xffffffff);
    assert_int_equal(b.pin20.rises, 1);
    tick(&b, 1);
    assert_int_equal(b.pin20.rises, 2);
}

/* As Linux sets it up: accumulator first, then the period. */
static void test_periodic(void **state)
{
    struct bench b;
    start(&b);
    wr(&b, CFG, 1);
    wr32(&b, TN_CFG(0), ENABLE | PERIODIC | SETVAL | MODE32 | ROUTE(20));
    wr32(&b, TN_CMP(0), 7000);
    wr32(&b, TN_CMP(0), 5000);
    tick(&b, 6999);
    assert_int_equal(b.pin20.rises, 0);
    tick(&b, 1);
    assert_int_equal(wire_taken(&b.pin20), 1);
    assert_true(rd(&b, TN_CMP(0)) == 12000);
    for (unsigned i = 0; i < 20; i++) {
        tick(&b, 4999);
        assert_int_equal(b.pin20.rises, 0);
        tick(&b, 1);
        assert_int_equal(wire_taken(&b.pin20), 1);
    }
    /* The host was away: one interrupt, and on phase again. */
    b.h.now += 50000 * 10 + 1000 * 10;
    clock_run(&b.h.clock);
    assert_int_equal(wire_taken(&b.pin20), 1);
    tick(&b, 3999);
    assert_int_equal(b.pin20.rises, 0);
    tick(&b, 1);
    assert_int_equal(wire_taken(&b.pin20), 1);
}

static void test_fastest_period(void **state)
{
    struct bench b;
    start(&b);
    wr(&b, TN_CFG(0), ENABLE | PERIODIC | SETVAL | ROUTE(20));
    wr(&b, TN_CMP(0), 1);
    wr(&b, CFG, 1);
    hand_pass(&b.h, NSEC_PER_SEC);
    assert_in_range(b.pin20.rises, 1000, 60000);
}

static void test_level(void **state)
{
    struct bench b;
    start(&b);
    wr(&b, TN_CFG(1), ENABLE | LEVEL | ROUTE(21));
    wr(&b, TN_CMP(1), 100);
    wr(&b, CFG, 1);
    tick(&b, 100);
    assert_int_equal(b.pin21.level, 1);
    assert_true(rd(&b, ISR) == 2);
    wr(&b, ISR, 5); /* others */
    assert_int_equal(b.pin21.level, 1);
    wr(&b, TN_CFG(1), ENABLE | LEVEL | ROUTE(20)); /* rerouted while active */
    assert_int_equal(b.pin21.level, 0);
    assert_int_equal(b.pin20.level, 1);
    wr(&b, TN_CFG(1), LEVEL | ROUTE(20)); /* disabled: the status stays */
    assert_int_equal(b.pin20.level, 0);
    assert_true(rd(&b, ISR) == 2);
    wr(&b, TN_CFG(1), ENABLE | LEVEL | ROUTE(20));
    assert_int_equal(b.pin20.level, 1);
    wr32(&b, ISR, 2);
    assert_int_equal(b.pin20.level, 0);
    assert_true(rd(&b, ISR) == 0);
}

static void test_legacy_replacement(void **state)
{
    struct bench b;
    start(&b);
    wr(&b, TN_CFG(0), ENABLE | ROUTE(20));
    wr(&b, TN_CFG(1), ENABLE | ROUTE(20));
    wr(&b, TN_CFG(2), ENABLE | ROUTE(20));
    wr(&b, TN_CMP(0), 100);
    wr(&b, TN_CMP(1), 200);
    wr(&b, TN_CMP(2), 300);
    wr(&b, CFG, 3);
    assert_int_equal(b.legacy, 1);
    tick(&b, 150);
    assert_int_equal(b.irq0.rises, 1);
    tick(&b, 100);
    assert_int_equal(b.irq8.rises, 1);
    assert_int_equal(b.pin20.rises, 0);
    tick(&b, 100);
    assert_int_equal(b.pin20.rises, 1); /* comparator 2 is not replaced */
    wr(&b, CFG, 1);
    assert_int_equal(b.legacy, 0);
    wr(&b, CFG, 3);
    hpet_reset(&b.hpet);
    assert_int_equal(b.legacy, 0);
    assert_true(rd(&b, CFG) == 0);
}

static void test_state(void **state)
{
    struct bench a, b;
    start(&a);
    start(&b);
    wr(&a, TN_CFG(0), ENABLE | PERIODIC | SETVAL | ROUTE(20));
    wr(&a, TN_CMP(0), 5000);
    wr(&a, TN_CFG(1), ENABLE | LEVEL | ROUTE(21));
    wr(&a, TN_CMP(1), 10);
    wr(&a, CFG, 1);
    tick(&a, 1000);
    b.h.now = 9000007;
    SAVE_LOAD(hpet_state(&a.hpet, s), hpet_state(&b.hpet, s));
    assert_true(rd(&b, CNT) == 1000);
    assert_int_equal(b.pin21.level, 1);
    tick(&b, 3999);
    assert_int_equal(b.pin20.rises, 0);
    tick(&b, 1);
    assert_int_equal(b.pin20.rises, 1);
    tick(&b, 5000);
    assert_int_equal(b.pin20.rises, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity), cmocka_unit_test(test_counter),
        cmocka_unit_test(test_one_shot), cmocka_unit_test(test_32_bits),
        cmocka_unit_test(test_periodic), cmocka_unit_test(test_fastest_period),
        cmocka_unit_test(test_level),    cmocka_unit_test(test_legacy_replacement),
        cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
