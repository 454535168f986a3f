#include "dev/virtio_rng.h"
#include "hand.h"
#include "ring.h"

static void test_rng(void **state)
{
    struct ring r;
    struct virtio_rng rng;
    struct ring_done done;
    static const u8 zeros[64];
    ring_init(&r);
    virtio_rng_init(&rng, &r.mem);
    ring_start(&r, &rng.v);
    unsigned head = ring_add(&r, 0, NULL, 0, 64);
    unsigned again = ring_add(&r, 0, NULL, 0, 0x8000);
    ring_kick(&r, 0);
    assert_true(ring_take(&r, 0, &done));
    assert_int_equal(done.head, head);
    assert_int_equal(done.len, 64);
    assert_memory_not_equal(ring_buf(&r, 0, head), zeros, 64);
    assert_memory_equal(ring_buf(&r, 0, head) + 64, zeros, 64);
    assert_true(ring_take(&r, 0, &done));
    assert_int_equal(done.head, again);
    assert_in_range(done.len, 1, 0x8000);
    assert_memory_not_equal(ring_buf(&r, 0, again) + done.len - 64, zeros, 64);
    /* A request without room gets nothing. */
    ring_add(&r, 0, "x", 1, 0);
    ring_kick(&r, 0);
    assert_true(ring_take(&r, 0, &done));
    assert_int_equal(done.len, 0);
    ring_free(&r);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_rng)};
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
