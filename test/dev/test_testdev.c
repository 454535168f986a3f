#include "dev/testdev.h"
#include "hand.h"

struct fixture {
    struct testdev dev;
    struct wire wire[TESTDEV_LINES];
};

static void build(struct fixture *f, struct hand *h)
{
    struct irq line[TESTDEV_LINES];
    for (unsigned n = 0; n < TESTDEV_LINES; n++) {
        f->wire[n] = (struct wire){0};
        line[n] = wire_irq(&f->wire[n]);
    }
    testdev_init(&f->dev, line);
    assert_int_equal(testdev_attach(&f->dev, &h->port, &h->mmio), 0);
}

static void test_storage(void **state)
{
    static struct fixture f;
    HAND(h);
    build(&f, &h);
    OUT32(&h, 0xe0, 0x12345678);
    assert_int_equal(IN32(&h, 0xe0), 0x12345678);
    assert_int_equal(IN8(&h, 0xe1), 0x56);
    OUT8(&h, 0xe3, 0x9a);
    assert_int_equal(IN16(&h, 0xe2), 0x9a34);
    OUT32(&h, 0xe4, 0xffffffff); /* the flush port keeps nothing */
    assert_int_equal(IN32(&h, 0xe0), 0x9a345678);
    bus_write(&h.mmio, TESTDEV_MMIO + 0xfff8, 8, 0x1122334455667788);
    assert_int_equal(bus_read(&h.mmio, TESTDEV_MMIO + 0xfffc, 4), 0x11223344);
    assert_int_equal(bus_read(&h.mmio, TESTDEV_MMIO + 0xffff, 8) & 0xff, 0x11);
}

static void test_lines(void **state)
{
    static struct fixture f;
    HAND(h);
    build(&f, &h);
    OUT8(&h, 0x200b, 1);
    assert_int_equal(f.wire[11].level, 1);
    OUT32(&h, 0x200b, 0); /* a wider write is still this line's, and no other's */
    assert_int_equal(f.wire[11].level, 0);
    OUT32(&h, 0x2017, 0x01010101); /* the last line; behind it there is none */
    assert_int_equal(f.wire[23].level, 1);
    for (unsigned n = 0; n < TESTDEV_LINES; n++)
        assert_int_equal(f.wire[n].rises, n == 11 || n == 23);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_storage),
        cmocka_unit_test(test_lines),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
