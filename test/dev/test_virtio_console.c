#define RING_QUEUES 6
#include "dev/virtio_console.h"
#include "hand.h"
#include "ring.h"

struct bench {
    struct hand h;
    struct ring r;
    struct virtio_console c;
    struct port {
        char out[64];
        size_t nout, room;
        unsigned wants, opened, closed;
    } port[2];
};

static size_t on_out(void *arg, const u8 *buf, size_t n)
{
    struct port *p = arg;
    n = min_u64(n, p->room);
    memcpy(p->out + p->nout, buf, n);
    p->nout += n;
    p->room -= n;
    return n;
}

static void on_want(void *arg)
{
    ((struct port *)arg)->wants++;
}

static void on_opened(void *arg, bool open)
{
    struct port *p = arg;
    p->opened += open;
    p->closed += !open;
}

static void start(struct bench *b, bool multi)
{
    *b = (struct bench){.h = {.clock = {.now = hand_now}}};
    struct virtio_console_end end = {
        .out = on_out, .want = on_want, .opened = on_opened, .arg = &b->port[0]};
    b->port[0].room = b->port[1].room = sizeof(b->port[0].out);
    ring_init(&b->r);
    virtio_console_init(&b->c, &b->r.mem, &b->h.clock, &end);
    end.arg = &b->port[1];
    if (multi)
        assert_int_equal(virtio_console_add(&b->c, "agent", &end), 1);
    ring_start(&b->r, &b->c.v);
}

static void test_output(void **state)
{
    struct bench b;
    struct ring_done done;
    start(&b, false);
    b.port[0].room = 3;
    ring_add(&b.r, 1, "hello", 5, 0);
    ring_add(&b.r, 1, "world", 5, 0);
    ring_kick(&b.r, 1);
    assert_string_equal(b.port[0].out, "hel");
    assert_false(ring_take(&b.r, 1, &done)); /* held until all of it is out */
    b.port[0].room = 4;
    virtio_console_room(&b.c, 0);
    assert_string_equal(b.port[0].out, "hellowo");
    assert_true(ring_take(&b.r, 1, &done));
    assert_int_equal(done.len, 0);
    assert_false(ring_take(&b.r, 1, &done));
    b.port[0].room = 10;
    virtio_console_room(&b.c, 0);
    assert_true(ring_take(&b.r, 1, &done));
    virtio_config_write(&b.c.v, 8, 4, '!');
    assert_string_equal(b.port[0].out, "helloworld!");
    /* A reset forgets what is held. */
    b.port[0].room = 1;
    ring_add(&b.r, 1, "again", 5, 0);
    ring_kick(&b.r, 1);
    ring_start(&b.r, &b.c.v);
    b.port[0].room = 9;
    virtio_console_room(&b.c, 0);
    assert_string_equal(b.port[0].out, "helloworld!a");
    ring_free(&b.r);
}

static void test_input(void **state)
{
    struct bench b;
    struct ring_done done;
    start(&b, false);
    assert_int_equal(virtio_console_in(&b.c, 0, (const u8 *)"abc", 3), 0);
    unsigned first = ring_add(&b.r, 0, NULL, 0, 2);
    ring_add(&b.r, 0, NULL, 0, 2);
    ring_kick(&b.r, 0);
    unsigned wants = b.port[0].wants;
    assert_int_equal(virtio_console_in(&b.c, 0, (const u8 *)"abc", 3), 0); /* it does not listen */
    hand_pass(&b.h, 2 * NSEC_PER_SEC);
    assert_int_equal(b.port[0].wants, wants + 1);
    assert_int_equal(virtio_console_in(&b.c, 0, (const u8 *)"abcde", 5), 4);
    assert_true(ring_take(&b.r, 0, &done));
    assert_int_equal(done.len, 2);
    assert_memory_equal(ring_buf(&b.r, 0, first), "ab", 2);
    assert_int_equal(virtio_console_in(&b.c, 0, (const u8 *)"e", 1), 0);
    /* One that speaks listens, too. */
    ring_start(&b.r, &b.c.v);
    ring_add(&b.r, 0, NULL, 0, 2);
    ring_add(&b.r, 1, "$", 1, 0);
    ring_kick(&b.r, 1);
    assert_int_equal(virtio_console_in(&b.c, 0, (const u8 *)"e", 1), 1);
    ring_free(&b.r);
}

static void control(struct bench *b, u32 id, u16 event, u16 value)
{
    struct ring_done done;
    u8 msg[8];
    memcpy(msg, &id, 4);
    memcpy(msg + 4, &event, 2);
    memcpy(msg + 6, &value, 2);
    ring_add(&b->r, 3, msg, 8, 0);
    ring_kick(&b->r, 3);
    assert_true(ring_take(&b->r, 3, &done));
}

/* The next message from the device. */
static void expect_control(struct bench *b, u32 id, u16 event, u16 value, const char *rest)
{
    struct ring_done done;
    u16 word[2];
    u32 got;
    assert_true(ring_take(&b->r, 2, &done));
    const u8 *msg = ring_buf(&b->r, 2, done.head);
    memcpy(&got, msg, 4);
    memcpy(word, msg + 4, 4);
    assert_int_equal(got, id);
    assert_int_equal(word[0], event);
    assert_int_equal(word[1], value);
    assert_int_equal(done.len, 8 + strlen(rest));
    assert_memory_equal(msg + 8, rest, strlen(rest));
    ring_add(&b->r, 2, NULL, 0, 64);
    ring_kick(&b->r, 2);
}

static void test_ports(void **state)
{
    struct bench b;
    struct ring_done done;
    start(&b, true);
    assert_int_equal(virtio_config_read(&b.c.v, 4, 4), 2);
    for (unsigned i = 0; i < 2; i++)
        ring_add(&b.r, 2, NULL, 0, 64); /* fewer than there will be messages */
    ring_kick(&b.r, 2);
    assert_false(ring_take(&b.r, 2, &done));
    control(&b, 0, 0, 1);
    expect_control(&b, 0, 1, 1, "");
    expect_control(&b, 1, 1, 1, "");
    control(&b, 0, 3, 1);
    expect_control(&b, 0, 4, 1, "");
    expect_control(&b, 0, 6, 1, "");
    control(&b, 1, 3, 1);
    expect_control(&b, 1, 7, 1, "agent");
    assert_false(ring_take(&b.r, 2, &done)); /* nobody is at its other end yet */
    virtio_console_open(&b.c, 1, true);
    expect_control(&b, 1, 6, 1, "");

    ring_add(&b.r, 4, NULL, 0, 16);
    assert_int_equal(virtio_console_in(&b.c, 1, (const u8 *)"x", 1), 0);
    control(&b, 1, 6, 1);
    assert_int_equal(b.port[1].opened, 1);
    assert_int_equal(virtio_console_in(&b.c, 1, (const u8 *)"x", 1), 1);
    ring_add(&b.r, 5, "reply", 5, 0);
    ring_kick(&b.r, 5);
    assert_string_equal(b.port[1].out, "reply");
    control(&b, 1, 6, 0);
    assert_int_equal(b.port[1].closed, 1);
    virtio_console_open(&b.c, 1, false);
    expect_control(&b, 1, 6, 0, "");
    ring_add(&b.r, 5, "lost", 4, 0);
    ring_kick(&b.r, 5);
    assert_string_equal(b.port[1].out, "reply");

    virtio_console_resize(&b.c, 0x5051, 0x2425);
    expect_control(&b, 0, 5, 1, "\x25\x24\x51\x50");
    assert_int_equal(virtio_config_read(&b.c.v, 0, 4), 0x24255051);
    ring_free(&b.r);
}

/* Messages that make no sense have no effect. */
static void test_bad_control(void **state)
{
    struct bench b;
    struct ring_done done;
    start(&b, true);
    ring_add(&b.r, 2, NULL, 0, 4); /* too short for a message: it gets its start */
    control(&b, 2, 3, 1);
    control(&b, 0xffffffff, 6, 1);
    control(&b, 0, 99, 1);
    ring_add(&b.r, 3, "short", 5, 0);
    ring_kick(&b.r, 3);
    assert_true(ring_take(&b.r, 3, &done));
    assert_false(ring_take(&b.r, 2, &done));
    control(&b, 0, 0, 1);
    assert_true(ring_take(&b.r, 2, &done));
    assert_int_equal(done.len, 4);
    assert_false(b.c.v.broken);
    assert_int_equal(virtio_console_in(&b.c, 99, (const u8 *)"x", 1), 0);
    virtio_console_open(&b.c, 99, true);
    virtio_console_room(&b.c, 99);
    ring_free(&b.r);
}

static void test_state(void **state)
{
    struct bench a, b;
    start(&a, true);
    control(&a, 0, 0, 1);
    control(&a, 1, 6, 1);
    start(&b, true);
    SAVE_LOAD(virtio_console_state(&a.c, s), virtio_console_state(&b.c, s));
    assert_true(b.c.ready);
    assert_true(b.c.port[1].guest_open);
    ring_free(&a.r);
    ring_free(&b.r);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output), cmocka_unit_test(test_input), cmocka_unit_test(test_ports),
        cmocka_unit_test(test_bad_control), cmocka_unit_test(test_state)};
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
