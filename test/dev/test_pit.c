#include "dev/pit.h"
#include "hand.h"

struct bench {
    struct hand h;
    struct pit pit;
    struct wire irq0;
};

static void start(struct bench *b)
{
    *b = (struct bench){.h = {.clock = {.now = hand_now}, .port = {.name = "port"}}};
    pit_init(&b->pit, &b->h.clock, wire_irq(&b->irq0));
    assert_int_equal(pit_attach(&b->pit, &b->h.port), 0);
}

/* To the first nanosecond of CLK n. */
static void to_clk(struct bench *b, u64 n)
{
    hand_until(&b->h, muldiv64(n, NSEC_PER_SEC, PIT_HZ) + 1);
}

static void load16(struct bench *b, unsigned ch, u8 control, u16 count)
{
    OUT8(&b->h, 0x43, control);
    OUT8(&b->h, 0x40 + ch, count & 0xff);
    OUT8(&b->h, 0x40 + ch, count >> 8);
}

static u16 read16(struct bench *b, unsigned ch)
{
    u16 lo = IN8(&b->h, 0x40 + ch);
    return lo | IN8(&b->h, 0x40 + ch) << 8;
}

static u16 latch16(struct bench *b, unsigned ch)
{
    OUT8(&b->h, 0x43, ch << 6);
    return read16(b, ch);
}

static u8 status(struct bench *b, unsigned ch)
{
    OUT8(&b->h, 0x43, 0xe0 | 2 << ch);
    return IN8(&b->h, 0x40 + ch);
}

static void test_mode0(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, 0x43, 0x30);
    assert_int_equal(status(&b, 0), 0x70); /* OUT low, null count */
    assert_int_equal(b.irq0.level, 0);
    OUT8(&b.h, 0x40, 100);
    OUT8(&b.h, 0x40, 0);
    assert_int_equal(status(&b, 0), 0x30);
    to_clk(&b, 40);
    assert_int_equal(latch16(&b, 0), 60);
    to_clk(&b, 99);
    assert_int_equal(b.irq0.level, 0);
    to_clk(&b, 100);
    assert_int_equal(b.irq0.level, 1);
    assert_int_equal(status(&b, 0), 0xb0);
    to_clk(&b, 103);
    assert_int_equal(latch16(&b, 0), 0xfffd); /* goes on counting */
    to_clk(&b, 200000);
    assert_int_equal(b.irq0.rises, 1); /* but interrupts once */
    OUT8(&b.h, 0x40, 5);
    assert_int_equal(b.irq0.level, 0); /* the first byte takes OUT down */
    OUT8(&b.h, 0x40, 0);
    to_clk(&b, 200005);
    assert_int_equal(b.irq0.level, 1);
}

static void test_mode2_on_phase(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 0, 0x34, 1000);
    assert_int_equal(b.irq0.level, 1);
    wire_taken(&b.irq0);
    for (u64 k = 1; k <= 50; k++) {
        to_clk(&b, k * 1000 - 1);
        assert_int_equal(b.irq0.rises, 0);
        to_clk(&b, k * 1000);
        assert_int_equal(wire_taken(&b.irq0), 1);
        assert_int_equal(latch16(&b, 0), 1000);
    }
}

/* The host was away for ten periods: one edge, and the next one where it belongs. */
static void test_mode2_coalesces(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 0, 0x34, 1000);
    wire_taken(&b.irq0);
    b.h.now = muldiv64(10300, NSEC_PER_SEC, PIT_HZ) + 1;
    clock_run(&b.h.clock);
    assert_int_equal(wire_taken(&b.irq0), 1);
    to_clk(&b, 10999);
    assert_int_equal(b.irq0.rises, 0);
    to_clk(&b, 11000);
    assert_int_equal(wire_taken(&b.irq0), 1);
}

/* A period of one CLK must not eat the host. */
static void test_mode2_fastest(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 0, 0x34, 1);
    wire_taken(&b.irq0);
    hand_pass(&b.h, NSEC_PER_SEC);
    unsigned n = wire_taken(&b.irq0);
    assert_in_range(n, 1000, 60000);
}

static void test_mode2_new_count(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 0, 0x34, 1000);
    wire_taken(&b.irq0);
    to_clk(&b, 400);
    OUT8(&b.h, 0x40, 0xf4);
    OUT8(&b.h, 0x40, 0x01);                /* 500 */
    assert_int_equal(status(&b, 0), 0xf4); /* not in the counter yet */
    assert_int_equal(latch16(&b, 0), 600);
    to_clk(&b, 999);
    assert_int_equal(b.irq0.rises, 0);
    to_clk(&b, 1000);
    assert_int_equal(wire_taken(&b.irq0), 1);
    assert_int_equal(status(&b, 0), 0xb4);
    to_clk(&b, 1500);
    assert_int_equal(wire_taken(&b.irq0), 1);
}

static void test_mode3(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 0, 0x36, 10);
    assert_int_equal(status(&b, 0), 0xb6);
    assert_int_equal(latch16(&b, 0), 10);
    to_clk(&b, 1);
    assert_int_equal(latch16(&b, 0), 8); /* by twos */
    to_clk(&b, 4);
    assert_int_equal(status(&b, 0), 0xb6);
    to_clk(&b, 5);
    assert_int_equal(status(&b, 0), 0x36);
    assert_int_equal(latch16(&b, 0), 10);
    to_clk(&b, 10);
    assert_int_equal(status(&b, 0), 0xb6);
    /* Odd: high for (n + 1) / 2. */
    load16(&b, 2, 0xb6, 5);
    OUT8(&b.h, 0x61, 0x01);
    u64 t = 10;
    static const u8 high[] = {1, 1, 1, 0, 0, 1};
    for (unsigned i = 0; i < 6; i++) {
        to_clk(&b, t + i);
        assert_int_equal(IN8(&b.h, 0x61) >> 5 & 1, high[i]);
    }
}

/* Channel 2 with its gate: modes 1 and 5 wait for the trigger. */
static void test_mode1(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 2, 0xb2, 50);
    assert_int_equal(status(&b, 2), 0xf2); /* OUT high; the count waits for the trigger */
    to_clk(&b, 30);
    assert_int_equal(latch16(&b, 2), 50);
    OUT8(&b.h, 0x61, 1);
    assert_int_equal(status(&b, 2), 0x32);
    to_clk(&b, 60);
    assert_int_equal(latch16(&b, 2), 20);
    OUT8(&b.h, 0x61, 0);
    OUT8(&b.h, 0x61, 1); /* retriggered: the pulse is longer */
    to_clk(&b, 109);
    assert_int_equal(IN8(&b.h, 0x61) & 0x20, 0);
    to_clk(&b, 110);
    assert_int_equal(IN8(&b.h, 0x61) & 0x20, 0x20);
}

static void test_mode4_and_5(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 0, 0x38, 30);
    wire_taken(&b.irq0);
    to_clk(&b, 30);
    assert_int_equal(status(&b, 0), 0x38); /* low for one CLK */
    assert_int_equal(b.irq0.rises, 0);
    to_clk(&b, 31);
    assert_int_equal(status(&b, 0), 0xb8);
    assert_int_equal(wire_taken(&b.irq0), 1);
    to_clk(&b, 100000);
    assert_int_equal(wire_taken(&b.irq0), 0);

    load16(&b, 2, 0xba, 30);
    to_clk(&b, 100050);
    assert_int_equal(IN8(&b.h, 0x61) & 0x20, 0x20);
    OUT8(&b.h, 0x61, 1);
    to_clk(&b, 100080);
    assert_int_equal(IN8(&b.h, 0x61) & 0x20, 0);
    to_clk(&b, 100081);
    assert_int_equal(IN8(&b.h, 0x61) & 0x20, 0x20);
}

/* How kernels measure time: mode 0 on channel 2, polled through port 0x61. */
static void test_gate_holds_mode0(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, 0x61, 0);
    load16(&b, 2, 0xb0, 100);
    to_clk(&b, 500);
    assert_int_equal(latch16(&b, 2), 100);
    OUT8(&b.h, 0x61, 1);
    to_clk(&b, 560);
    OUT8(&b.h, 0x61, 0);
    to_clk(&b, 900);
    assert_int_equal(latch16(&b, 2), 40);
    assert_int_equal(IN8(&b.h, 0x61) & 0x20, 0);
    OUT8(&b.h, 0x61, 1);
    to_clk(&b, 939);
    assert_int_equal(IN8(&b.h, 0x61) & 0x20, 0);
    to_clk(&b, 940);
    assert_int_equal(IN8(&b.h, 0x61) & 0x20, 0x20);
}

static void test_read_back(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 0, 0x34, 1000);
    load16(&b, 2, 0xb0, 700);
    OUT8(&b.h, 0x61, 1);
    to_clk(&b, 100);
    OUT8(&b.h, 0x43, 0xca); /* count and status of 0 and 2 */
    to_clk(&b, 300);
    OUT8(&b.h, 0x43, 0xca); /* latched already: ignored */
    assert_int_equal(IN8(&b.h, 0x40), 0xb4);
    assert_int_equal(read16(&b, 0), 900);
    assert_int_equal(IN8(&b.h, 0x42), 0x30);
    assert_int_equal(read16(&b, 2), 600);
    assert_int_equal(read16(&b, 0), 700); /* live again */
    OUT8(&b.h, 0x43, 0xd2);               /* count only */
    assert_int_equal(read16(&b, 0), 700);
}

static void test_widths(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, 0x43, 0x14); /* LSB only, mode 2 */
    OUT8(&b.h, 0x40, 200);
    to_clk(&b, 50);
    assert_int_equal(IN8(&b.h, 0x40), 150);
    assert_int_equal(IN8(&b.h, 0x40), 150);
    OUT8(&b.h, 0x43, 0x24); /* MSB only */
    OUT8(&b.h, 0x40, 2);
    to_clk(&b, 150);
    assert_int_equal(IN8(&b.h, 0x40), 1); /* 412 */
    OUT8(&b.h, 0x43, 0x00);
    assert_int_equal(IN8(&b.h, 0x40), 1); /* a latch gives one byte */
    assert_int_equal(IN8(&b.h, 0x43), 0xff);
}

static void test_bcd(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 0, 0x35, 0x1000);
    to_clk(&b, 1);
    assert_int_equal(latch16(&b, 0), 0x0999);
    load16(&b, 0, 0x31, 0); /* 10000 */
    to_clk(&b, 2);
    assert_int_equal(latch16(&b, 0), 0x9999);
    load16(&b, 0, 0x30, 0); /* 65536 */
    to_clk(&b, 3);
    assert_int_equal(latch16(&b, 0), 0xffff);
}

static void test_port61(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, 0x61, 0xff);
    assert_int_equal(IN8(&b.h, 0x61) & 0x0f, 0x0f);
    unsigned toggles = 0;
    u8 was = IN8(&b.h, 0x61) & 0x10;
    for (unsigned i = 0; i < 1000; i++) {
        hand_pass(&b.h, 1000);
        u8 is = IN8(&b.h, 0x61) & 0x10;
        toggles += is != was;
        was = is;
    }
    assert_int_equal(toggles, 66); /* every 15.085 us in a millisecond */
}

static void test_mute(void **state)
{
    struct bench b;
    start(&b);
    load16(&b, 0, 0x34, 1000);
    pit_mute(&b.pit, true);
    wire_taken(&b.irq0);
    to_clk(&b, 5000);
    assert_int_equal(wire_taken(&b.irq0), 0);
    pit_mute(&b.pit, false);
    wire_taken(&b.irq0);
    to_clk(&b, 6000);
    assert_int_equal(wire_taken(&b.irq0), 1);
}

static void test_state(void **state)
{
    struct bench a, b;
    start(&a);
    load16(&a, 0, 0x34, 1000);
    to_clk(&a, 300);
    start(&b);
    b.h.now = 777777777; /* another zero of time */
    SAVE_LOAD(pit_state(&a.pit, s), pit_state(&b.pit, s));
    assert_int_equal(latch16(&b, 0), 700);
    wire_taken(&b.irq0);
    hand_pass(&b.h, 698 * NSEC_PER_SEC / PIT_HZ);
    assert_int_equal(b.irq0.rises, 0);
    hand_pass(&b.h, 3 * NSEC_PER_SEC / PIT_HZ);
    assert_int_equal(b.irq0.rises, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mode0),
        cmocka_unit_test(test_mode2_on_phase),
        cmocka_unit_test(test_mode2_coalesces),
        cmocka_unit_test(test_mode2_fastest),
        cmocka_unit_test(test_mode2_new_count),
        cmocka_unit_test(test_mode3),
        cmocka_unit_test(test_mode1),
        cmocka_unit_test(test_mode4_and_5),
        cmocka_unit_test(test_gate_holds_mode0),
        cmocka_unit_test(test_read_back),
        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_bcd),
        cmocka_unit_test(test_port61),
        cmocka_unit_test(test_mute),
        cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
