#include "dev/virtio_balloon.h"
#include "hand.h"
#include "ring.h"

#include <sys/mman.h>

#define PAGES 64
#define AREA  0x700000u

struct bench {
    struct ring r;
    struct virtio_balloon b;
    unsigned config_irqs;
};

static void on_interrupt(struct virtio_dev *d, int q)
{
    container_of(d, struct bench, b.v)->config_irqs += q < 0;
}

static void start(struct bench *t)
{
    ring_init(&t->r);
    t->config_irqs = 0;
    virtio_balloon_init(&t->b, &t->r.mem);
    t->b.v.interrupt = on_interrupt;
    ring_start(&t->r, &t->b.v);
    memset(mem_ptr(&t->r.mem, AREA), 0xaa, PAGES * PAGE_SIZE);
}

static unsigned resident(struct bench *t)
{
    u8 in_core[PAGES];
    unsigned n = 0;
    assert_int_equal(mincore(mem_ptr(&t->r.mem, AREA), PAGES * PAGE_SIZE, in_core), 0);
    for (unsigned i = 0; i < PAGES; i++)
        n += in_core[i] & 1;
    return n;
}

static void send(struct bench *t, unsigned q, const u32 *pfn, unsigned n)
{
    struct ring_done done;
    ring_add(&t->r, q, pfn, 4 * n, 0);
    ring_kick(&t->r, q);
    assert_true(ring_take(&t->r, q, &done));
    assert_int_equal(done.len, 0);
}

static void test_inflate(void **state)
{
    struct bench t;
    start(&t);
    assert_int_equal(resident(&t), PAGES);
    const u32 first = AREA >> PAGE_SHIFT;
    /* Up, down, one alone, one twice, and some that are no RAM. */
    u32 pfn[] = {first,      first + 1, first + 2,   first + 20, first + 19, first + 18,
                 first + 40, first + 1, 0xffffffffu, 0x100000,   0x800};
    mem_code_mark(&t.r.mem, first + 19, 1);
    send(&t, 0, pfn, ARRAY_SIZE(pfn));
    assert_int_equal(resident(&t), PAGES - 7);
    assert_int_equal(*mem_ptr(&t.r.mem, AREA), 0);
    assert_int_equal(*mem_ptr(&t.r.mem, AREA + 3 * PAGE_SIZE), 0xaa);
    assert_false(mem_has_code(&t.r.mem, first + 19)); /* what was decoded there is gone */
    send(&t, 1, pfn, 3);                              /* deflate: nothing happens */
    assert_false(t.b.v.broken);
    ring_free(&t.r);
}

/* A report's segments are whole pages, or what of them is. */
static void test_report(void **state)
{
    struct bench t;
    struct ring_done done;
    start(&t);
    unsigned head = ring_add(&t.r, 2, NULL, 0, 9 * PAGE_SIZE);
    u64 addr = AREA + 0x800;
    memcpy(mem_ptr(&t.r.mem, ring_at(2) + 16 * head), &addr, 8);
    ring_kick(&t.r, 2);
    assert_true(ring_take(&t.r, 2, &done));
    assert_int_equal(resident(&t), PAGES - 8);
    assert_int_equal(t.b.given, 8);
    assert_int_equal(*mem_ptr(&t.r.mem, AREA + 0xfff), 0xaa);
    assert_int_equal(*mem_ptr(&t.r.mem, AREA + 0x1000), 0);
    assert_int_equal(*mem_ptr(&t.r.mem, AREA + 0x9000), 0xaa);
    ring_free(&t.r);
}

static void test_config(void **state)
{
    struct bench t, u;
    start(&t);
    assert_int_equal(virtio_config_read(&t.b.v, 0, 8), 0);
    virtio_balloon_set(&t.b, 77);
    virtio_balloon_set(&t.b, 77);
    assert_int_equal(t.config_irqs, 1);
    virtio_config_write(&t.b.v, 4, 4, 0x11223344);
    virtio_config_write(&t.b.v, 0, 4, 5); /* read-only */
    assert_int_equal(virtio_config_read(&t.b.v, 0, 4), 77);
    assert_int_equal(virtio_config_read(&t.b.v, 5, 2), 0x2233);
    start(&u);
    SAVE_LOAD(virtio_balloon_state(&t.b, s), virtio_balloon_state(&u.b, s));
    assert_int_equal(u.b.target, 77);
    virtio_set_status(&t.b.v, 0);
    assert_int_equal(t.b.actual, 0);
    assert_int_equal(t.b.target, 77);
    ring_free(&t.r);
    ring_free(&u.r);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_inflate),
                                              cmocka_unit_test(test_report),
                                              cmocka_unit_test(test_config)};
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
