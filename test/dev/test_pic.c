#include "dev/pic.h"
#include "hand.h"

struct bench {
    struct hand h;
    struct pic_pair pic;
    struct wire intr;
};

#define MASTER 0x20
#define SLAVE  0xa0

static void program(struct bench *b, u8 icw4_master, u8 icw4_slave)
{
    OUT8(&b->h, MASTER, 0x11);
    OUT8(&b->h, MASTER + 1, 0x30);
    OUT8(&b->h, MASTER + 1, 0x04);
    OUT8(&b->h, MASTER + 1, icw4_master);
    OUT8(&b->h, SLAVE, 0x11);
    OUT8(&b->h, SLAVE + 1, 0x48);
    OUT8(&b->h, SLAVE + 1, 0x02);
    OUT8(&b->h, SLAVE + 1, icw4_slave);
}

static void build(struct bench *b)
{
    *b = (struct bench){.h = {.clock = {.now = hand_now}, .port = {.name = "port"}}};
    pic_init(&b->pic, wire_irq(&b->intr));
    assert_int_equal(pic_attach(&b->pic, &b->h.port), 0);
}

static void start(struct bench *b)
{
    build(b);
    program(b, 1, 1);
}

static void pulse(struct bench *b, unsigned pin)
{
    pic_set(&b->pic, pin, 1);
    pic_set(&b->pic, pin, 0);
}

static u8 isr(struct bench *b, u16 port)
{
    OUT8(&b->h, port, 0x0b);
    return IN8(&b->h, port);
}

static u8 irr(struct bench *b, u16 port)
{
    OUT8(&b->h, port, 0x0a);
    return IN8(&b->h, port);
}

static void test_silent_before_icw(void **state)
{
    struct bench b;
    build(&b);
    pic_set(&b.pic, 0, 1);
    assert_int_equal(b.intr.level, 0);
    OUT8(&b.h, MASTER, 0x11);
    pic_set(&b.pic, 0, 0);
    pic_set(&b.pic, 0, 1);
    OUT8(&b.h, MASTER + 1, 0x30);
    OUT8(&b.h, MASTER + 1, 0x04);
    assert_int_equal(b.intr.level, 0);
    OUT8(&b.h, MASTER + 1, 0x01);
    assert_int_equal(b.intr.level, 1);
    assert_int_equal(pic_ack(&b.pic), 0x30);
}

/* ICW1 with SNGL and without IC4 takes one more word only. */
static void test_short_init(void **state)
{
    struct bench b;
    build(&b);
    OUT8(&b.h, MASTER, 0x12);
    OUT8(&b.h, MASTER + 1, 0x25);
    OUT8(&b.h, MASTER + 1, 0xfd); /* OCW1 already */
    assert_int_equal(IN8(&b.h, MASTER + 1), 0xfd);
    pulse(&b, 1);
    assert_int_equal(pic_ack(&b.pic), 0x21);
}

static void test_priority_and_eoi(void **state)
{
    struct bench b;
    start(&b);
    pulse(&b, 4);
    pulse(&b, 3);
    assert_int_equal(irr(&b, MASTER), 0x18);
    assert_int_equal(pic_ack(&b.pic), 0x33);
    assert_int_equal(b.intr.level, 0); /* 4 waits for 3 */
    pulse(&b, 1);
    assert_int_equal(b.intr.level, 1); /* 1 does not */
    assert_int_equal(pic_ack(&b.pic), 0x31);
    assert_int_equal(isr(&b, MASTER), 0x0a);
    OUT8(&b.h, MASTER, 0x20);
    assert_int_equal(isr(&b, MASTER), 0x08);
    assert_int_equal(b.intr.level, 0);
    OUT8(&b.h, MASTER, 0x63); /* specific */
    assert_int_equal(b.intr.level, 1);
    assert_int_equal(pic_ack(&b.pic), 0x34);
}

static void test_mask(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, MASTER + 1, 0x10);
    pulse(&b, 4);
    assert_int_equal(b.intr.level, 0);
    OUT8(&b.h, MASTER + 1, 0x00); /* the request was kept */
    assert_int_equal(b.intr.level, 1);
    assert_int_equal(pic_ack(&b.pic), 0x34);
}

/* The slave's vectors are its own base plus its own input, and both chips are in service. */
static void test_cascade(void **state)
{
    struct bench b;
    start(&b);
    pulse(&b, 12);
    assert_int_equal(irr(&b, MASTER), 0x04);
    assert_int_equal(irr(&b, SLAVE), 0x10);
    assert_int_equal(pic_ack(&b.pic), 0x4c);
    assert_int_equal(isr(&b, MASTER), 0x04);
    assert_int_equal(isr(&b, SLAVE), 0x10);
    assert_int_equal(irr(&b, MASTER), 0x00);
    pulse(&b, 9); /* higher in the slave, but the master holds the slave off */
    assert_int_equal(b.intr.level, 0);
    pulse(&b, 1);
    assert_int_equal(pic_ack(&b.pic), 0x31);
    OUT8(&b.h, MASTER, 0x61);
    OUT8(&b.h, SLAVE, 0x64);
    OUT8(&b.h, MASTER, 0x62);
    assert_int_equal(b.intr.level, 1);
    assert_int_equal(pic_ack(&b.pic), 0x49);
}

static void test_every_input(void **state)
{
    for (unsigned n = 0; n < 16; n++) {
        struct bench b;
        start(&b);
        pulse(&b, n);
        assert_int_equal(b.intr.level, n != 2);
        if (n != 2)
            assert_int_equal(pic_ack(&b.pic), n < 8 ? 0x30 + n : 0x48 + n - 8);
    }
}

static void test_spurious_master(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, 0x4d0, 0x20);
    pic_set(&b.pic, 5, 1);
    assert_int_equal(b.intr.level, 1);
    pic_set(&b.pic, 5, 0); /* a level request goes before INTA */
    assert_int_equal(b.intr.level, 0);
    assert_int_equal(pic_ack(&b.pic), 0x37);
    assert_int_equal(isr(&b, MASTER), 0);
    assert_int_equal(isr(&b, SLAVE), 0);
}

/* The slave has let go, the master has not: input 7 of the slave, and only the master in service.
 */
static void test_spurious_slave(void **state)
{
    struct bench b;
    start(&b);
    pulse(&b, 12);
    OUT8(&b.h, SLAVE + 1, 0x10);
    assert_int_equal(b.intr.level, 1);
    assert_int_equal(pic_ack(&b.pic), 0x4f);
    assert_int_equal(isr(&b, MASTER), 0x04);
    assert_int_equal(isr(&b, SLAVE), 0);
    OUT8(&b.h, MASTER, 0x62);
    OUT8(&b.h, SLAVE + 1, 0x00);
    assert_int_equal(pic_ack(&b.pic), 0x4c);
}

static void test_level(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, 0x4d0, 0xff);
    OUT8(&b.h, 0x4d1, 0xff);
    assert_int_equal(IN8(&b.h, 0x4d0), 0xf8);
    assert_int_equal(IN8(&b.h, 0x4d1), 0xde);
    pic_set(&b.pic, 11, 1);
    assert_int_equal(pic_ack(&b.pic), 0x4b);
    assert_int_equal(irr(&b, SLAVE), 0x08); /* still asserted */
    OUT8(&b.h, SLAVE, 0x20);
    OUT8(&b.h, MASTER, 0x20);
    assert_int_equal(b.intr.level, 1); /* and asks again */
    assert_int_equal(pic_ack(&b.pic), 0x4b);
    pic_set(&b.pic, 11, 0);
    OUT8(&b.h, SLAVE, 0x20);
    OUT8(&b.h, MASTER, 0x20);
    assert_int_equal(b.intr.level, 0);
}

/* An edge input that stays high asks once. ICW1 forgets the edge and keeps the level. */
static void test_edge(void **state)
{
    struct bench b;
    start(&b);
    pic_set(&b.pic, 4, 1);
    assert_int_equal(pic_ack(&b.pic), 0x34);
    pic_set(&b.pic, 4, 1);
    OUT8(&b.h, MASTER, 0x20);
    assert_int_equal(b.intr.level, 0);
    pulse(&b, 3);
    program(&b, 1, 1);
    assert_int_equal(b.intr.level, 0);
    OUT8(&b.h, 0x4d0, 0x10);
    assert_int_equal(b.intr.level, 1);
    program(&b, 1, 1);
    assert_int_equal(b.intr.level, 1);
}

static void test_aeoi_and_rotation(void **state)
{
    struct bench b;
    build(&b);
    program(&b, 3, 1);
    OUT8(&b.h, MASTER, 0x80); /* rotate in AEOI mode */
    pulse(&b, 0);
    assert_int_equal(pic_ack(&b.pic), 0x30);
    assert_int_equal(isr(&b, MASTER), 0);
    pulse(&b, 0);
    pulse(&b, 7); /* 0 has become the lowest */
    assert_int_equal(pic_ack(&b.pic), 0x37);
    assert_int_equal(pic_ack(&b.pic), 0x30);
}

static void test_set_priority(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, MASTER, 0xc3); /* 3 lowest, 4 highest */
    pulse(&b, 0);
    pulse(&b, 5);
    assert_int_equal(pic_ack(&b.pic), 0x35);
    assert_int_equal(b.intr.level, 0);
    OUT8(&b.h, MASTER, 0xa0); /* rotate on non-specific EOI: 5 lowest */
    assert_int_equal(pic_ack(&b.pic), 0x30);
    pulse(&b, 6);
    assert_int_equal(b.intr.level, 1); /* 6 is the highest now */
    assert_int_equal(pic_ack(&b.pic), 0x36);
    OUT8(&b.h, MASTER, 0xe0); /* rotate on specific EOI of 0 */
    assert_int_equal(isr(&b, MASTER), 0x40);
}

/* OCW2 010 is no operation: neither priority nor rotation changes. */
static void test_ocw2_nop(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, MASTER, 0x43);
    pulse(&b, 4);
    pulse(&b, 0);
    assert_int_equal(pic_ack(&b.pic), 0x30);
}

static void test_special_mask(void **state)
{
    struct bench b;
    start(&b);
    pulse(&b, 1);
    assert_int_equal(pic_ack(&b.pic), 0x31);
    pulse(&b, 6);
    assert_int_equal(b.intr.level, 0);
    OUT8(&b.h, MASTER + 1, 0x02);
    OUT8(&b.h, MASTER, 0x68); /* set special mask mode */
    assert_int_equal(b.intr.level, 1);
    assert_int_equal(pic_ack(&b.pic), 0x36);
    OUT8(&b.h, MASTER, 0x20); /* passes over the masked level */
    assert_int_equal(isr(&b, MASTER), 0x02);
    OUT8(&b.h, MASTER, 0x48); /* reset it */
    pulse(&b, 6);
    assert_int_equal(b.intr.level, 0);
}

static void test_special_fully_nested(void **state)
{
    struct bench b;
    build(&b);
    program(&b, 0x11, 1);
    pulse(&b, 12);
    assert_int_equal(pic_ack(&b.pic), 0x4c);
    pulse(&b, 9);
    assert_int_equal(b.intr.level, 1);
    assert_int_equal(pic_ack(&b.pic), 0x49);
    pulse(&b, 3); /* lower than the slave's level: held off */
    assert_int_equal(b.intr.level, 0);
}

static void test_poll(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, MASTER, 0x0c);
    assert_int_equal(IN8(&b.h, MASTER), 0x00);
    pulse(&b, 10);
    OUT8(&b.h, MASTER, 0x0c);
    assert_int_equal(IN8(&b.h, MASTER), 0x82);
    OUT8(&b.h, SLAVE, 0x0c);
    assert_int_equal(IN8(&b.h, SLAVE), 0x82);
    assert_int_equal(isr(&b, MASTER), 0x04);
    assert_int_equal(isr(&b, SLAVE), 0x04);
    assert_int_equal(b.intr.level, 0);
}

static void test_state(void **state)
{
    struct bench a, b;
    start(&a);
    build(&b);
    OUT8(&a.h, 0x4d1, 0x08);
    pic_set(&a.pic, 11, 1);
    pulse(&a, 1);
    assert_int_equal(pic_ack(&a.pic), 0x31);
    SAVE_LOAD(pic_state(&a.pic, s), pic_state(&b.pic, s));
    assert_int_equal(isr(&b, MASTER), 0x02);
    OUT8(&b.h, MASTER, 0x20);
    assert_int_equal(b.intr.level, 1);
    assert_int_equal(pic_ack(&b.pic), 0x4b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_silent_before_icw),
        cmocka_unit_test(test_short_init),
        cmocka_unit_test(test_priority_and_eoi),
        cmocka_unit_test(test_mask),
        cmocka_unit_test(test_cascade),
        cmocka_unit_test(test_every_input),
        cmocka_unit_test(test_spurious_master),
        cmocka_unit_test(test_spurious_slave),
        cmocka_unit_test(test_level),
        cmocka_unit_test(test_edge),
        cmocka_unit_test(test_aeoi_and_rotation),
        cmocka_unit_test(test_set_priority),
        cmocka_unit_test(test_ocw2_nop),
        cmocka_unit_test(test_special_mask),
        cmocka_unit_test(test_special_fully_nested),
        cmocka_unit_test(test_poll),
        cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
