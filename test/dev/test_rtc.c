#include "dev/rtc.h"
#include "hand.h"

#define MS 1000000ull

struct bench {
    struct hand h;
    struct rtc rtc;
    struct wire irq8;
    u64 wall0; /* the wall clock at clock time 0 */
};

static u64 wall(void *arg)
{
    struct bench *b = arg;
    return b->wall0 + b->h.now / NSEC_PER_SEC;
}

/* 2023-11-14 22:13:20 UTC, a Tuesday */
#define T0 1700000000ull

static void start_at(struct bench *b, u64 t)
{
    *b = (struct bench){.h = {.clock = {.now = hand_now}, .port = {.name = "port"}}, .wall0 = t};
    rtc_init(&b->rtc, &b->h.clock, wall, b, wire_irq(&b->irq8));
    assert_int_equal(rtc_attach(&b->rtc, &b->h.port), 0);
}

static u8 get(struct bench *b, u8 reg)
{
    OUT8(&b->h, 0x70, reg);
    return IN8(&b->h, 0x71);
}

static void put(struct bench *b, u8 reg, u8 val)
{
    OUT8(&b->h, 0x70, reg);
    OUT8(&b->h, 0x71, val);
}

/* The registers, as one number to read at a glance: YYYYMMDDhhmmss in hexadecimal. */
static u64 stamp(struct bench *b)
{
    static const u8 reg[] = {0x32, 9, 8, 7, 4, 2, 0};
    u64 v = 0;
    for (unsigned i = 0; i < sizeof(reg); i++)
        v = v << 8 | get(b, reg[i]);
    return v;
}

static void test_reads_the_wall_clock(void **state)
{
    struct bench b;
    start_at(&b, T0);
    assert_true(stamp(&b) == 0x20231114221320);
    assert_int_equal(get(&b, 6), 3); /* Sunday is 1 */
    hand_pass(&b.h, 46 * 60 * NSEC_PER_SEC);
    assert_true(stamp(&b) == 0x20231114225920);
    hand_pass(&b.h, 3601 * NSEC_PER_SEC);
    assert_true(stamp(&b) == 0x20231114235921);
    hand_pass(&b.h, 39 * NSEC_PER_SEC);
    assert_true(stamp(&b) == 0x20231115000000);
}

static void test_calendar(void **state)
{
    static const struct {
        u64 t, stamp;
        u8 wday;
    } day[] = {
        {0, 0x19700101000000, 5},          {951782400, 0x20000229000000, 3},
        {951868800, 0x20000301000000, 4},  {1709164800, 0x20240229000000, 5},
        {1735689599, 0x20241231235959, 3}, {4107542400, 0x21000301000000, 2},
        {4107542399, 0x21000228235959, 1}, {946684799, 0x19991231235959, 6},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(day); i++) {
        struct bench b;
        start_at(&b, day[i].t);
        assert_true(stamp(&b) == day[i].stamp);
        assert_int_equal(get(&b, 6), day[i].wday);
    }
}

static void test_formats(void **state)
{
    struct bench b;
    start_at(&b, T0);
    put(&b, 11, 0x06); /* binary, 24 h */
    assert_int_equal(get(&b, 4), 22);
    assert_int_equal(get(&b, 9), 23);
    assert_int_equal(get(&b, 0x32), 20);
    put(&b, 11, 0x04); /* binary, 12 h */
    assert_int_equal(get(&b, 4), 0x80 | 10);
    put(&b, 11, 0x00); /* BCD, 12 h */
    assert_int_equal(get(&b, 4), 0x80 | 0x10);
    hand_pass(&b.h, 2 * 3600 * NSEC_PER_SEC); /* 00:13 */
    assert_int_equal(get(&b, 4), 0x12);
    hand_pass(&b.h, 12 * 3600 * NSEC_PER_SEC);
    assert_int_equal(get(&b, 4), 0x92);
}

/* The guest sets the clock: the offset from the wall clock stays. */
static void test_setting(void **state)
{
    struct bench b;
    start_at(&b, T0);
    hand_pass(&b.h, 300 * MS);
    put(&b, 11, 0x82); /* SET */
    put(&b, 0x32, 0x19);
    put(&b, 9, 0x99);
    put(&b, 8, 0x12);
    put(&b, 7, 0x31);
    put(&b, 4, 0x23);
    put(&b, 2, 0x59);
    put(&b, 0, 0x58);
    hand_pass(&b.h, 5000 * MS);
    assert_true(stamp(&b) == 0x19991231235958); /* it stands still */
    put(&b, 11, 0x02);
    assert_true(stamp(&b) == 0x19991231235958);
    hand_pass(&b.h, 2000 * MS);
    assert_true(stamp(&b) == 0x20000101000000);
    assert_int_equal(get(&b, 6), 7);
    /* A pause: the machine's clock stood still for an hour, the wall clock did not. */
    b.wall0 += 3600;
    hand_pass(&b.h, 1000 * MS);
    assert_true(stamp(&b) == 0x20000101010001);
    /* Setting one register of a running clock. */
    put(&b, 4, 0x05);
    assert_true(stamp(&b) == 0x20000101050001);
}

/* With the divider in reset nothing moves; half a second after its release the first update. */
static void test_divider(void **state)
{
    struct bench b;
    start_at(&b, T0);
    hand_pass(&b.h, 700 * MS);
    put(&b, 10, 0x76);
    hand_pass(&b.h, 10000 * MS);
    assert_int_equal(get(&b, 0), 0x20);
    put(&b, 10, 0x26);
    hand_pass(&b.h, 499 * MS);
    assert_int_equal(get(&b, 0), 0x20);
    hand_pass(&b.h, 2 * MS);
    assert_int_equal(get(&b, 0), 0x21);
}

static void test_uip(void **state)
{
    struct bench b;
    start_at(&b, T0);
    hand_until(&b.h, NSEC_PER_SEC - 244001);
    assert_int_equal(get(&b, 10), 0x26);
    hand_until(&b.h, NSEC_PER_SEC - 244000);
    assert_int_equal(get(&b, 10), 0xa6);
    assert_int_equal(get(&b, 0), 0x20);
    hand_until(&b.h, NSEC_PER_SEC);
    assert_int_equal(get(&b, 10), 0x26);
    assert_int_equal(get(&b, 0), 0x21);
    put(&b, 10, 0xa6); /* UIP is read-only */
    assert_int_equal(get(&b, 10), 0x26);
}

static void test_register_c(void **state)
{
    struct bench b;
    start_at(&b, T0);
    put(&b, 10, 0x20); /* no periodic rate */
    get(&b, 12);
    hand_pass(&b.h, 1500 * MS);
    assert_int_equal(get(&b, 12), 0x10); /* UF without its enable: no IRQF */
    assert_int_equal(get(&b, 12), 0x00); /* reading cleared it */
    assert_int_equal(b.irq8.level, 0);
    put(&b, 11, 0x12);
    hand_pass(&b.h, 1000 * MS);
    assert_int_equal(b.irq8.level, 1);
    hand_pass(&b.h, 5000 * MS);
    assert_int_equal(b.irq8.rises, 1); /* no more until C is read */
    assert_int_equal(get(&b, 12), 0x90);
    assert_int_equal(b.irq8.level, 0);
    assert_int_equal(get(&b, 12), 0x00);
    hand_until(&b.h, 7999 * MS);
    assert_int_equal(b.irq8.level, 0);
    hand_until(&b.h, 8000 * MS);
    assert_int_equal(b.irq8.level, 1);
    put(&b, 12, 0xff); /* read-only, as is D */
    put(&b, 13, 0x00);
    assert_int_equal(get(&b, 13), 0x80);
    assert_int_equal(get(&b, 12), 0x90);
    /* A flag that is up raises the wire as soon as it is enabled. */
    put(&b, 11, 0x02);
    hand_pass(&b.h, 1000 * MS);
    wire_taken(&b.irq8);
    put(&b, 11, 0x12);
    assert_int_equal(wire_taken(&b.irq8), 1);
    put(&b, 11, 0x92); /* SET clears UIE */
    assert_int_equal(get(&b, 11), 0x82);
    assert_int_equal(b.irq8.level, 0);
}

static unsigned periodic_in_second(u8 rate)
{
    struct bench b;
    start_at(&b, T0);
    put(&b, 10, 0x20 | rate);
    put(&b, 11, 0x42);
    unsigned n = 0;
    while (clock_next(&b.h.clock) <= NSEC_PER_SEC + 1) {
        hand_until(&b.h, clock_next(&b.h.clock));
        n += wire_taken(&b.irq8);
        assert_int_equal(get(&b, 12) & 0xc0, 0xc0);
    }
    return n;
}

static void test_periodic(void **state)
{
    assert_int_equal(periodic_in_second(0), 0);
    assert_int_equal(periodic_in_second(1), 256);
    assert_int_equal(periodic_in_second(2), 128);
    assert_int_equal(periodic_in_second(3), 8192);
    assert_int_equal(periodic_in_second(6), 1024);
    assert_int_equal(periodic_in_second(15), 2);
}

static void test_alarm(void **state)
{
    struct bench b;
    start_at(&b, T0); /* 22:13:20 */
    put(&b, 1, 0x05);
    put(&b, 3, 0x15);
    put(&b, 5, 0x22);
    put(&b, 11, 0x22);
    get(&b, 12);
    hand_until(&b.h, 104999 * MS);
    assert_int_equal(b.irq8.level, 0);
    hand_until(&b.h, 105000 * MS); /* 22:15:05 */
    assert_int_equal(b.irq8.level, 1);
    assert_int_equal(get(&b, 12) & 0xb0, 0xb0);
    hand_pass(&b.h, 86399 * NSEC_PER_SEC);
    assert_int_equal(b.irq8.level, 0);
    hand_pass(&b.h, NSEC_PER_SEC); /* the next day */
    assert_int_equal(b.irq8.level, 1);
    get(&b, 12);
    wire_taken(&b.irq8);
    put(&b, 3, 0xff); /* any minute, any hour */
    put(&b, 5, 0xc0);
    hand_pass(&b.h, 60 * NSEC_PER_SEC);
    assert_int_equal(wire_taken(&b.irq8), 1);
    get(&b, 12);
    put(&b, 5, 0x77); /* never */
    hand_pass(&b.h, 200000 * NSEC_PER_SEC);
    assert_int_equal(wire_taken(&b.irq8), 0);
}

static void test_ram_and_nmi(void **state)
{
    struct bench b;
    start_at(&b, T0);
    rtc_set_memory(&b.rtc, 3 * GiB, 5 * GiB + 64 * KiB);
    assert_int_equal(get(&b, 0x15) | get(&b, 0x16) << 8, 640);
    assert_int_equal(get(&b, 0x17) | get(&b, 0x18) << 8, 0xffff);
    assert_int_equal(get(&b, 0x30) | get(&b, 0x31) << 8, 0xffff);
    assert_int_equal(get(&b, 0x34) | get(&b, 0x35) << 8, (3 * GiB - 16 * MiB) >> 16);
    assert_int_equal(get(&b, 0x5b) | get(&b, 0x5c) << 8 | get(&b, 0x5d) << 16, 0x14001);
    rtc_set_memory(&b.rtc, 8 * MiB, 0);
    assert_int_equal(get(&b, 0x17) | get(&b, 0x18) << 8, 7 * 1024);
    assert_int_equal(get(&b, 0x34) | get(&b, 0x35) << 8, 0);
    put(&b, 0x8f, 0x0a); /* bit 7 masks NMIs */
    assert_int_equal(b.rtc.nmi_masked, 1);
    assert_int_equal(rtc_shutdown_byte(&b.rtc), 0x0a);
    rtc_reset(&b.rtc);
    assert_int_equal(b.rtc.nmi_masked, 0);
    assert_int_equal(get(&b, 0x0f), 0x0a);
    assert_int_equal(IN8(&b.h, 0x70), 0xff);
}

static void test_state(void **state)
{
    struct bench a, b;
    start_at(&a, T0);
    hand_pass(&a.h, 400 * MS);
    put(&a, 4, 0x03);
    put(&a, 11, 0x12);
    start_at(&b, T0);
    SAVE_LOAD(rtc_state(&a.rtc, s), rtc_state(&b.rtc, s));
    assert_true(stamp(&b) == 0x20231114031320);
    hand_pass(&b.h, 599 * MS);
    assert_int_equal(b.irq8.level, 0);
    hand_pass(&b.h, 1 * MS);
    assert_int_equal(b.irq8.level, 1);
    assert_true(stamp(&b) == 0x20231114031321);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_the_wall_clock),
        cmocka_unit_test(test_calendar),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_setting),
        cmocka_unit_test(test_divider),
        cmocka_unit_test(test_uip),
        cmocka_unit_test(test_register_c),
        cmocka_unit_test(test_periodic),
        cmocka_unit_test(test_alarm),
        cmocka_unit_test(test_ram_and_nmi),
        cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
