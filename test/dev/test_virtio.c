#include "dev/virtio.h"
#include "hand.h"

#include <string.h>

#define RAM     (4 * MiB)
#define DESC    0x1000u
#define AVAIL   0x2000u
#define USED    0x3000u
#define TABLE   0x4000u /* for indirect descriptors */
#define DATA    0x10000u
#define SIZE    8u
#define F_NEXT  1
#define F_WRITE 2
#define F_INDIR 4

struct bench {
    struct mem mem;
    struct virtio_dev d;
    struct log log;
    u16 avail_idx;
    unsigned kicks, resets, oks, irqs, config_irqs, lines;
    u8 config[8];
};

static struct bench *of(struct virtio_dev *d)
{
    return container_of(d, struct bench, d);
}

static void on_notify(struct virtio_dev *d, unsigned q)
{
    of(d)->kicks++;
}

static void on_reset(struct virtio_dev *d)
{
    of(d)->resets++;
}

static void on_ok(struct virtio_dev *d)
{
    of(d)->oks++;
}

static void on_interrupt(struct virtio_dev *d, int q)
{
    of(d)->irqs += q >= 0;
    of(d)->config_irqs += q < 0;
}

static void on_line(void *arg, const char *line)
{
    ((struct bench *)arg)->lines++;
}

static const struct virtio_ops ops = {.notify = on_notify, .reset = on_reset, .driver_ok = on_ok};

static void set(struct bench *b, gpa_t at, u64 v, unsigned size)
{
    memcpy(mem_ptr(&b->mem, at), &v, size);
}

static u64 get(struct bench *b, gpa_t at, unsigned size)
{
    u64 v = 0;
    memcpy(&v, mem_ptr(&b->mem, at), size);
    return v;
}

static void desc_in(struct bench *b, gpa_t table, unsigned i, u64 addr, u32 len, u16 flags,
                    u16 next)
{
    set(b, table + 16 * i, addr, 8);
    set(b, table + 16 * i + 8, len, 4);
    set(b, table + 16 * i + 12, flags, 2);
    set(b, table + 16 * i + 14, next, 2);
}

static void desc(struct bench *b, unsigned i, u64 addr, u32 len, u16 flags, u16 next)
{
    desc_in(b, DESC, i, addr, len, flags, next);
}

static void offer(struct bench *b, u16 head)
{
    set(b, AVAIL + 4 + 2 * (b->avail_idx % SIZE), head, 2);
    set(b, AVAIL + 2, ++b->avail_idx, 2);
}

static void set_up(struct bench *b, u64 features)
{
    struct virtio_dev *d = &b->d;
    b->avail_idx = 0;
    memset(mem_ptr(&b->mem, 0), 0, DATA);
    virtio_set_status(d, 0);
    virtio_set_status(d, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
    virtio_set_features(d, features);
    virtio_set_status(d, d->status | VIRTIO_S_FEATURES_OK);
    d->q[0].num = SIZE;
    d->q[0].desc = DESC;
    d->q[0].avail = AVAIL;
    d->q[0].used = USED;
    virtio_enable_queue(d, 0);
    virtio_set_status(d, d->status | VIRTIO_S_DRIVER_OK);
}

static void start(struct bench *b, u64 features)
{
    *b = (struct bench){.log = {.sink = on_line, .arg = b}};
    assert_int_equal(mem_init(&b->mem, NULL), 0);
    assert_int_equal(mem_add_ram(&b->mem, 0, RAM, false, NULL), 0);
    virtio_init(&b->d, &ops, 42, BIT(3), 2, 64, &b->mem);
    b->d.interrupt = on_interrupt;
    b->d.log = &b->log;
    b->d.config = b->config;
    b->d.config_size = sizeof(b->config);
    set_up(b, features | VIRTIO_F_VERSION_1);
}

static void stop(struct bench *b)
{
    mem_free(&b->mem);
}

/* --- what a good driver does --- */

static void test_negotiation(void **state)
{
    struct bench b;
    start(&b, BIT(3));
    assert_true(virtio_has(&b.d, BIT(3)));
    assert_false(virtio_has(&b.d, VIRTIO_F_EVENT_IDX));
    assert_int_equal(b.oks, 1);
    assert_int_equal(b.kicks, 1); /* for what was there before DRIVER_OK */
    virtio_set_features(&b.d, 0); /* too late */
    assert_true(virtio_has(&b.d, BIT(3)));
    virtio_notify(&b.d, 0);
    virtio_notify(&b.d, 1); /* not enabled */
    virtio_notify(&b.d, 77);
    assert_int_equal(b.kicks, 2);
    unsigned resets = b.resets;
    virtio_set_status(&b.d, 0);
    assert_int_equal(b.resets, resets + 1);
    assert_int_equal(b.d.features, 0);
    assert_false(b.d.q[0].enabled);
    virtio_notify(&b.d, 0);
    assert_int_equal(b.kicks, 2);
    /* What was not offered is refused. */
    virtio_set_features(&b.d, BIT(3) | BIT(60));
    virtio_set_status(&b.d, VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK);
    assert_int_equal(b.d.status, VIRTIO_S_DRIVER);
    assert_false(virtio_has(&b.d, BIT(60)));
    stop(&b);
}

static void test_chain(void **state)
{
    struct bench b;
    struct virtq_buf v;
    char text[16] = {0};
    start(&b, 0);
    assert_int_equal(virtq_pop(&b.d, 0, &v), 0);
    memcpy(mem_ptr(&b.mem, DATA), "hello, ", 7);
    memcpy(mem_ptr(&b.mem, DATA + 0x100), "world", 5);
    desc(&b, 5, DATA, 7, F_NEXT, 2);
    desc(&b, 2, DATA + 0x100, 5, F_NEXT, 0);
    desc(&b, 0, DATA + 0x200, 0, F_NEXT | F_WRITE, 7); /* empty: left out */
    desc(&b, 7, DATA + 0x300, 3, F_NEXT | F_WRITE, 1);
    desc(&b, 1, DATA + 0x400, 100, F_WRITE, 9999); /* next means nothing */
    offer(&b, 5);
    assert_true(virtq_pending(&b.d, 0));
    assert_int_equal(virtq_pop(&b.d, 0, &v), 1);
    assert_false(virtq_pending(&b.d, 0));
    assert_int_equal(v.head, 5);
    assert_int_equal(v.nout, 2);
    assert_int_equal(v.nin, 2);
    assert_int_equal(v.out_len, 12);
    assert_int_equal(v.in_len, 103);
    assert_int_equal(virtq_read(&v, 2, text, sizeof(text)), 10);
    assert_string_equal(text, "llo, world");
    assert_int_equal(virtq_read(&v, 12, text, 1), 0);
    assert_int_equal(virtq_write(&v, 1, "abcdef", 6), 6);
    assert_memory_equal(mem_ptr(&b.mem, DATA + 0x301), "ab", 2);
    assert_memory_equal(mem_ptr(&b.mem, DATA + 0x400), "cdef", 4);
    assert_int_equal(virtq_write(&v, 100, "abcdef", 6), 3);

    struct iovec part[4];
    assert_int_equal(virtq_slice(v.in, v.nin, 2, 50, part, 4), 2);
    assert_int_equal(part[0].iov_len, 1);
    assert_int_equal(part[1].iov_len, 49);
    assert_int_equal(virtq_slice(v.in, v.nin, 2, 50, part, 1), 0);
    assert_int_equal(virtq_slice(v.in, v.nin, 103, 1, part, 4), 0);

    virtq_push(&b.d, 0, &v, 7);
    assert_int_equal(b.irqs, 0);
    virtq_signal(&b.d, 0);
    virtq_signal(&b.d, 0); /* nothing new */
    assert_int_equal(b.irqs, 1);
    assert_int_equal(get(&b, USED + 2, 2), 1);
    assert_int_equal(get(&b, USED + 4, 4), 5);
    assert_int_equal(get(&b, USED + 8, 4), 7);
    assert_int_equal(virtq_pop(&b.d, 0, &v), 0);
    stop(&b);
}

/* The rings wrap, and chains come back in any order. */
static void test_many(void **state)
{
    struct bench b;
    struct virtq_buf v[3];
    start(&b, 0);
    for (unsigned round = 0; round < 70000 / 3; round++) {
        for (unsigned i = 0; i < 3; i++) {
            desc(&b, i, DATA, 1, F_WRITE, 0);
            offer(&b, i);
        }
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(virtq_pop(&b.d, 0, &v[i]), 1);
        virtq_push(&b.d, 0, &v[2], 1);
        virtq_push(&b.d, 0, &v[0], 1);
        virtq_push(&b.d, 0, &v[1], 1);
        u16 last = (u16)(3 * round + 2);
        if (get(&b, USED + 4 + 8 * (last % SIZE), 4) != 1 || virtq_pop(&b.d, 0, &v[0]) != 0)
            fail();
    }
    assert_int_equal(get(&b, USED + 2, 2), (u16)(70000 / 3 * 3));
    stop(&b);
}

static void test_unpop(void **state)
{
    struct bench b;
    struct virtq_buf v;
    start(&b, 0);
    desc(&b, 4, DATA, 1, 0, 0);
    offer(&b, 4);
    assert_int_equal(virtq_pop(&b.d, 0, &v), 1);
    virtq_unpop(&b.d, 0, &v);
    assert_int_equal(b.d.q[0].inflight, 0);
    assert_int_equal(virtq_pop(&b.d, 0, &v), 1);
    assert_int_equal(v.head, 4);
    stop(&b);
}

static void test_indirect(void **state)
{
    struct bench b;
    struct virtq_buf v;
    start(&b, VIRTIO_F_INDIRECT_DESC);
    desc(&b, 0, DATA, 8, F_NEXT, 3); /* a plain one may come before it, 2.7.5.3.2 */
    desc(&b, 3, TABLE, 48, F_INDIR, 0);
    desc_in(&b, TABLE, 0, DATA + 8, 4, F_NEXT, 2);
    desc_in(&b, TABLE, 2, DATA + 0x100, 5, F_NEXT | F_WRITE, 1);
    desc_in(&b, TABLE, 1, DATA + 0x200, 6, F_WRITE, 0);
    offer(&b, 0);
    assert_int_equal(virtq_pop(&b.d, 0, &v), 1);
    assert_int_equal(v.nout, 2);
    assert_int_equal(v.out_len, 12);
    assert_int_equal(v.nin, 2);
    assert_int_equal(v.in_len, 11);
    stop(&b);
}

static void one_request(struct bench *b)
{
    struct virtq_buf v;
    desc(b, 0, DATA, 1, F_WRITE, 0);
    offer(b, 0);
    assert_int_equal(virtq_pop(&b->d, 0, &v), 1);
    virtq_push(&b->d, 0, &v, 1);
    virtq_signal(&b->d, 0);
}

static void test_no_interrupt(void **state)
{
    struct bench b;
    start(&b, 0);
    set(&b, AVAIL, 1, 2);
    one_request(&b);
    assert_int_equal(b.irqs, 0);
    set(&b, AVAIL, 0, 2);
    one_request(&b);
    assert_int_equal(b.irqs, 1);
    stop(&b);
}

static void test_event_idx(void **state)
{
    struct bench b;
    struct virtq_buf v;
    gpa_t used_event = AVAIL + 4 + 2 * SIZE, avail_event = USED + 4 + 8 * SIZE;
    start(&b, VIRTIO_F_EVENT_IDX);
    set(&b, AVAIL, 1, 2); /* is without meaning now */
    one_request(&b);
    assert_int_equal(b.irqs, 1);
    one_request(&b); /* used_event is still 0 */
    assert_int_equal(b.irqs, 1);
    set(&b, used_event, 3, 2);
    one_request(&b);
    assert_int_equal(b.irqs, 1);
    one_request(&b);
    assert_int_equal(b.irqs, 2);
    assert_int_equal(get(&b, avail_event, 2), 0);
    assert_int_equal(virtq_pop(&b.d, 0, &v), 0); /* from here on a kick is wanted */
    assert_int_equal(get(&b, avail_event, 2), 4);
    stop(&b);
}

/* What the device stores makes decoded code stale: the bytes written, and no others. */
static void test_code(void **state)
{
    struct bench b;
    struct virtq_buf v;
    start(&b, 0);
    const struct mem_region *r = mem_find(&b.mem, 0);
    u64 first = mem_page(r, DATA), second = mem_page(r, DATA + 0x5000);
    mem_code_mark(&b.mem, first, ~0ull);
    mem_code_mark(&b.mem, second, ~0ull);
    mem_code_mark(&b.mem, mem_page(r, USED), 1);
    desc(&b, 0, DATA, 0x10, F_NEXT | F_WRITE, 1);
    desc(&b, 1, DATA + 0x5000, 0x10, F_WRITE, 0);
    offer(&b, 0);
    u32 gen = mem_code_gen(&b.mem, first);
    assert_int_equal(virtq_pop(&b.d, 0, &v), 1);
    virtq_push(&b.d, 0, &v, 0x10);
    assert_int_not_equal(mem_code_gen(&b.mem, first), gen);
    assert_true(mem_has_code(&b.mem, second));
    assert_false(mem_has_code(&b.mem, mem_page(r, USED)));
    stop(&b);
}

static void test_config(void **state)
{
    struct bench b;
    start(&b, 0);
    memcpy(b.config, "abcdefgh", 8);
    assert_int_equal(virtio_config_read(&b.d, 1, 2), 'c' << 8 | 'b');
    assert_int_equal(virtio_config_read(&b.d, 7, 1), 'h');
    assert_int_equal(virtio_config_read(&b.d, 7, 2), ~0ull);
    assert_int_equal(virtio_config_read(&b.d, 0xfff, 4), ~0ull);
    virtio_config_write(&b.d, 0, 4, 0);
    assert_int_equal(b.config[0], 'a');
    u8 generation = b.d.config_generation;
    virtio_config_changed(&b.d);
    assert_int_not_equal(b.d.config_generation, generation);
    assert_int_equal(b.config_irqs, 1);
    stop(&b);
}

/* --- what a bad one does: each case is popped once, and must leave the device broken --- */

#define CHAIN_BREAKS(features, ...)                                                                \
    do {                                                                                           \
        struct bench b_, *b = &b_;                                                                 \
        struct virtq_buf v_;                                                                       \
        start(b, (features));                                                                      \
        __VA_ARGS__;                                                                               \
        offer(b, 0);                                                                               \
        expect_broken(b, &v_);                                                                     \
    } while (0)

static void expect_broken(struct bench *b, struct virtq_buf *v)
{
    assert_int_equal(virtq_pop(&b->d, 0, v), -1);
    assert_int_equal(virtq_pop(&b->d, 0, v), -1);
    assert_true(b->d.broken);
    assert_true(b->d.status & VIRTIO_S_NEEDS_RESET);
    assert_int_equal(b->config_irqs, 1);
    assert_int_equal(b->lines, 1);
    unsigned kicks = b->kicks;
    virtio_notify(&b->d, 0);
    assert_int_equal(b->kicks, kicks);
    virtio_set_status(&b->d, 15); /* the driver cannot talk it away */
    assert_true(b->d.status & VIRTIO_S_NEEDS_RESET);
    set_up(b, 0); /* a reset can */
    one_request(b);
    assert_int_equal(b->lines, 1);
    stop(b);
}

static void test_bad_chains(void **state)
{
    CHAIN_BREAKS(0, desc(b, 0, DATA, 1, F_NEXT, 0));
    CHAIN_BREAKS(0, desc(b, 0, DATA, 1, F_NEXT, 1), desc(b, 1, DATA, 0, F_NEXT, 0));
    CHAIN_BREAKS(0, desc(b, 0, DATA, 1, F_NEXT, SIZE));
    CHAIN_BREAKS(0, desc(b, 0, DATA, 1, F_NEXT, 0xffff));
    CHAIN_BREAKS(0, desc(b, 0, DATA, 1, F_NEXT | F_WRITE, 1), desc(b, 1, DATA, 1, 0, 0));
    CHAIN_BREAKS(0, desc(b, 0, RAM - 4, 5, 0, 0));
    CHAIN_BREAKS(0, desc(b, 0, RAM, 1, 0, 0));
    CHAIN_BREAKS(0, desc(b, 0, ~0ull - 4, 16, F_WRITE, 0));
    CHAIN_BREAKS(0, desc(b, 0, 0, 0xffffffff, F_WRITE, 0));
}

static void test_bad_indirect(void **state)
{
    const u64 f = VIRTIO_F_INDIRECT_DESC;
    CHAIN_BREAKS(0, desc(b, 0, TABLE, 16, F_INDIR, 0));
    CHAIN_BREAKS(f, desc(b, 0, TABLE, 0, F_INDIR, 0));
    CHAIN_BREAKS(f, desc(b, 0, TABLE, 17, F_INDIR, 0));
    CHAIN_BREAKS(f, desc(b, 0, 0, 16 * (VIRTQ_SIZE_MAX + 1), F_INDIR, 0));
    CHAIN_BREAKS(f, desc(b, 0, RAM - 8, 16, F_INDIR, 0));
    CHAIN_BREAKS(f, desc(b, 0, TABLE, 16, F_INDIR | F_NEXT, 1));
    CHAIN_BREAKS(f, desc(b, 0, TABLE, 16, F_INDIR, 0), desc_in(b, TABLE, 0, TABLE, 16, F_INDIR, 0));
    CHAIN_BREAKS(f, desc(b, 0, TABLE, 32, F_INDIR, 0), desc_in(b, TABLE, 0, DATA, 1, F_NEXT, 2));
    CHAIN_BREAKS(f, desc(b, 0, TABLE, 32, F_INDIR, 0), desc_in(b, TABLE, 0, DATA, 1, F_NEXT, 0));
}

static void long_table(struct bench *b)
{
    desc(b, 0, TABLE, 16 * (VIRTQ_SEGS_MAX + 1), F_INDIR, 0);
    for (unsigned i = 0; i <= VIRTQ_SEGS_MAX; i++)
        desc_in(b, TABLE, i, DATA, 1, i < VIRTQ_SEGS_MAX ? F_NEXT : 0, i + 1);
}

static void test_bad_rings(void **state)
{
    CHAIN_BREAKS(VIRTIO_F_INDIRECT_DESC, long_table(b));
    CHAIN_BREAKS(0, b->avail_idx = SIZE); /* more than the ring holds */
    CHAIN_BREAKS(0, b->avail_idx = 0x7fff);
    CHAIN_BREAKS(0, {
        offer(b, SIZE); /* a head out of range comes first */
    });
}

/* One head again and again: more in flight than there are descriptors. */
static void test_inflight(void **state)
{
    struct bench b;
    struct virtq_buf v;
    start(&b, 0);
    desc(&b, 0, DATA, 1, F_WRITE, 0);
    for (unsigned i = 0; i < SIZE; i++) {
        offer(&b, 0);
        assert_int_equal(virtq_pop(&b.d, 0, &v), 1);
    }
    offer(&b, 0);
    expect_broken(&b, &v);
}

static void enable(struct bench *b, u16 num, u64 d, u64 a, u64 u, bool good)
{
    start(b, 0);
    b->d.q[1].num = num;
    b->d.q[1].desc = d;
    b->d.q[1].avail = a;
    b->d.q[1].used = u;
    virtio_enable_queue(&b->d, 1);
    assert_int_equal(b->d.q[1].enabled, good);
    assert_int_equal(b->d.broken, !good);
    stop(b);
}

static void test_bad_queues(void **state)
{
    struct bench b;
    enable(&b, 64, 0x8000, 0x9000, 0xa000, true);
    enable(&b, 64, RAM - 1024, 0x9000, RAM - 520, true);
    enable(&b, 0, 0x8000, 0x9000, 0xa000, false);
    enable(&b, 48, 0x8000, 0x9000, 0xa000, false);
    enable(&b, 128, 0x8000, 0x9000, 0xa000, false);
    enable(&b, 64, 0x8008, 0x9000, 0xa000, false);
    enable(&b, 64, 0x8000, 0x9001, 0xa000, false);
    enable(&b, 64, 0x8000, 0x9000, 0xa002, false);
    enable(&b, 64, RAM, 0x9000, 0xa000, false);
    enable(&b, 64, RAM - 1008, 0x9000, 0xa000, false);
    enable(&b, 64, 0x8000, ~1ull, 0xa000, false);
    enable(&b, 64, 0x8000, 0x9000, RAM - 516, false);
}

/* What comes back after a reset is dropped. */
static void test_stale(void **state)
{
    struct bench b;
    struct virtq_buf v;
    start(&b, 0);
    desc(&b, 0, DATA, 1, F_WRITE, 0);
    offer(&b, 0);
    assert_int_equal(virtq_pop(&b.d, 0, &v), 1);
    set_up(&b, 0);
    virtq_push(&b.d, 0, &v, 1);
    virtq_signal(&b.d, 0);
    assert_int_equal(get(&b, USED + 2, 2), 0);
    assert_int_equal(b.irqs, 0);
    one_request(&b);
    stop(&b);
}

static void test_state(void **state)
{
    struct bench a, b;
    struct virtq_buf v;
    start(&a, VIRTIO_F_EVENT_IDX);
    one_request(&a);
    start(&b, 0);
    SAVE_LOAD(virtio_state(&a.d, s), virtio_state(&b.d, s));
    assert_true(virtio_has(&b.d, VIRTIO_F_EVENT_IDX));
    assert_true(virtio_ready(&b.d));
    assert_int_equal(b.d.q[0].last_avail, 1);
    b.avail_idx = 1;
    desc(&b, 0, DATA, 1, F_WRITE, 0);
    offer(&b, 0);
    assert_int_equal(virtq_pop(&b.d, 0, &v), 1);
    struct state s;
    state_init_save(&s); /* with a request in flight */
    virtio_state(&b.d, &s);
    assert_true(s.failed);
    state_free(&s);
    stop(&a);
    stop(&b);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_negotiation),  cmocka_unit_test(test_chain),
        cmocka_unit_test(test_many),         cmocka_unit_test(test_unpop),
        cmocka_unit_test(test_indirect),     cmocka_unit_test(test_no_interrupt),
        cmocka_unit_test(test_event_idx),    cmocka_unit_test(test_code),
        cmocka_unit_test(test_config),       cmocka_unit_test(test_bad_chains),
        cmocka_unit_test(test_bad_indirect), cmocka_unit_test(test_bad_rings),
        cmocka_unit_test(test_inflight),     cmocka_unit_test(test_bad_queues),
        cmocka_unit_test(test_stale),        cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
