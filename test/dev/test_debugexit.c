#include "dev/debugexit.h"
#include "hand.h"

struct ended {
    unsigned times;
    u32 status;
};

static void end(void *arg, u32 status)
{
    struct ended *e = arg;
    e->times++;
    e->status = status;
}

static void test_status(void **state)
{
    struct ended e = {0};
    struct debugexit d;
    HAND(h);
    debugexit_init(&d, end, &e);
    assert_int_equal(debugexit_attach(&d, &h.port, DEBUGEXIT_PORT), 0);
    assert_int_equal(IN8(&h, 0xf4), 0);
    assert_int_equal(e.times, 0);
    OUT8(&h, 0xf4, 0);
    assert_int_equal(e.status, 1);
    OUT32(&h, 0xf4, 0x10);
    assert_int_equal(e.times, 2); /* a dword is one write */
    assert_int_equal(e.status, 0x21);
    OUT32(&h, 0xf4, 0xffffffff);
    assert_int_equal(e.status, 0xffffffff);
    OUT8(&h, 0xf8, 5);
    assert_int_equal(e.times, 3);
}

static void test_other_port(void **state)
{
    struct ended e = {0};
    struct debugexit d;
    HAND(h);
    debugexit_init(&d, end, &e);
    assert_int_equal(debugexit_attach(&d, &h.port, 0x501), 0);
    OUT8(&h, 0xf4, 1);
    assert_int_equal(e.times, 0);
    OUT8(&h, 0x501, 1);
    assert_int_equal(e.status, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_other_port),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
