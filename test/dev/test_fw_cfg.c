#include "dev/fw_cfg.h"
#include "hand.h"

#define RAM (512 * MiB + 5)

static u64 item(struct hand *h, u16 key, unsigned bytes)
{
    u64 v = 0;
    OUT16(h, 0x510, key);
    for (unsigned n = 0; n < bytes; n++)
        v |= (u64)IN8(h, 0x511) << (8 * n);
    return v;
}

static void test_items(void **state)
{
    struct fw_cfg f;
    HAND(h);
    fw_cfg_init(&f, RAM, 4);
    assert_int_equal(fw_cfg_attach(&f, &h.port), 0);
    assert_int_equal(item(&h, 0x00, 4), 0x554d4551); /* "QEMU" */
    assert_int_equal(item(&h, 0x01, 4), 1);
    assert_int_equal(item(&h, 0x03, 8), RAM);
    assert_int_equal(item(&h, 0x05, 2), 4);
    assert_int_equal(item(&h, 0x0f, 2), 4);
    assert_int_equal(item(&h, 0x19, 8), 0); /* no directory of files */
    assert_int_equal(item(&h, 0xffff, 8), 0);
}

/* Past an item's end come zeros, however long one reads; selecting starts again. */
static void test_end(void **state)
{
    struct fw_cfg f;
    HAND(h);
    fw_cfg_init(&f, RAM, 4);
    fw_cfg_attach(&f, &h.port);
    assert_int_equal(item(&h, 0x03, 8), RAM);
    for (unsigned n = 0; n < 100; n++)
        assert_int_equal(IN8(&h, 0x511), 0);
    assert_int_equal(item(&h, 0x03, 8), RAM);
    OUT8(&h, 0x511, 0x77); /* writing items is not possible */
    assert_int_equal(item(&h, 0x03, 8), RAM);
}

static void test_reset_and_state(void **state)
{
    struct fw_cfg f, g;
    HAND(h);
    fw_cfg_init(&f, RAM, 4);
    fw_cfg_init(&g, RAM, 4);
    fw_cfg_attach(&f, &h.port);
    OUT16(&h, 0x510, 0x03);
    IN8(&h, 0x511);
    SAVE_LOAD(fw_cfg_state(&f, s), fw_cfg_state(&g, s));
    assert_int_equal(g.selector, 3);
    assert_int_equal(g.offset, 1);
    fw_cfg_reset(&f);
    assert_int_equal(IN8(&h, 0x511), 'Q');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_items),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_reset_and_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
