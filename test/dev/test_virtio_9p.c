/*
 * The shared folder's device: requests go to its threads and come back, a flush waits for what it
 * flushes, a reset drops what is under way, and damaged chains break nothing but the device.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <unistd.h>

#include "dev/virtio_9p.h"
#include "ring.h"

static struct ring ring;
static struct virtio_9p dev;
static char top[32];

static int setup(void **state)
{
    struct virtio_9p_config cfg = {.tag = "share0", .loop = &ring.loop, .mem = &ring.mem};
    strcpy(top, "/var/tmp/popf-9p.XXXXXX");
    cfg.share.path = mkdtemp(top);
    ring_init(&ring);
    assert_int_equal(virtio_9p_init(&dev, &cfg, NULL), 0);
    ring_start(&ring, &dev.v);
    return 0;
}

static int teardown(void **state)
{
    pthread_mutex_lock(&ring.lock);
    virtio_9p_free(&dev);
    pthread_mutex_unlock(&ring.lock);
    ring_free(&ring);
    return rmdir(top);
}

#define SEND(msg, in) ring_add(&ring, 0, msg, sizeof(msg) - 1, in)

static const char version[] = "\x15\0\0\0\x64\xff\xff\0\0\1\0\x08\0"
                              "9P2000.L";
static const char attach[] = "\x17\0\0\0\x68\1\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0";
static const char walk[] = "\x11\0\0\0\x6e\2\0\0\0\0\0\1\0\0\0\0\0";
static const char getattr[] = "\x13\0\0\0\x18\3\0\1\0\0\0\xff\xff\0\0\0\0\0\0";

static u8 type_of(struct ring_done d)
{
    return ring_buf(&ring, 0, d.head + 1)[4];
}

static void begin(void)
{
    struct ring_done d;
    SEND(version, 4096);
    ring_kick(&ring, 0);
    assert_true(ring_wait(&ring, 0, &d));
    assert_int_equal(type_of(d), 101);
    SEND(attach, 4096);
    ring_kick(&ring, 0);
    assert_true(ring_wait(&ring, 0, &d));
    assert_int_equal(type_of(d), 105);
}

static void test_config(void **state)
{
    assert_int_equal(virtio_config_read(&dev.v, 0, 2), 6);
    assert_int_equal(virtio_config_read(&dev.v, 2, 4), 0x72616873);
    assert_int_equal(virtio_config_read(&dev.v, 6, 2), 0x3065);
    assert_true(dev.v.offered & VIRTIO_9P_MOUNT_TAG);
}

static void test_requests(void **state)
{
    struct ring_done d;
    begin();
    SEND(walk, 4096);
    ring_kick(&ring, 0);
    assert_true(ring_wait(&ring, 0, &d));
    assert_int_equal(type_of(d), 111);
    assert_int_equal(d.len, 9);
    for (int i = 0; i < 5; i++)
        SEND(getattr, 4096);
    ring_kick(&ring, 0);
    for (int i = 0; i < 5; i++) {
        assert_true(ring_wait(&ring, 0, &d));
        assert_int_equal(type_of(d), 25);
        assert_int_equal(d.len, 160);
    }
}

static void test_small_reply(void **state)
{
    struct ring_done d;
    SEND(version, 8);
    SEND(version, 0);
    SEND(version, 11);
    ring_kick(&ring, 0);
    for (int i = 0; i < 3; i++) {
        assert_true(ring_wait(&ring, 0, &d));
        assert_int_equal(d.len, i == 2 ? 11 : 0);
    }
    assert_false(dev.v.broken);
}

/* Whatever the threads do, Rflush comes after the reply that it speaks of. */
static void test_flush(void **state)
{
    static const char flush[] = "\x09\0\0\0\x6c\x09\0\3\0";
    begin();
    SEND(walk, 4096);
    ring_kick(&ring, 0);
    struct ring_done d;
    assert_true(ring_wait(&ring, 0, &d));
    for (int i = 0; i < 200; i++) {
        unsigned first = SEND(getattr, 4096);
        unsigned second = SEND(flush, 4096);
        ring_kick(&ring, 0);
        assert_true(ring_wait(&ring, 0, &d));
        assert_int_equal(d.head, first);
        assert_true(ring_wait(&ring, 0, &d));
        assert_int_equal(d.head, second);
        assert_int_equal(type_of(d), 109);
    }
}

static void test_reset(void **state)
{
    struct ring_done d;
    for (int i = 0; i < 50; i++) {
        begin();
        SEND(walk, 4096);
        SEND(getattr, 4096);
        ring_kick(&ring, 0);
        ring_start(&ring, &dev.v);
        ring_turn(&ring);
        assert_false(ring_take(&ring, 0, &d)); /* nothing of before */
    }
}

static void test_broken(void **state)
{
    SEND(version, 4096);
    u64 outside = 1ull << 40;
    memcpy(mem_ptr(&ring.mem, ring_at(0)), &outside, 8);
    ring_kick(&ring, 0);
    assert_true(dev.v.broken);
    ring_start(&ring, &dev.v);
    assert_false(dev.v.broken);
    begin();
}

static void test_bad_config(void **state)
{
    struct virtio_9p p;
    struct err e;
    struct virtio_9p_config cfg = {.tag = "", .loop = &ring.loop, .mem = &ring.mem};
    cfg.share.path = top;
    assert_int_equal(virtio_9p_init(&p, &cfg, &e), -1);
    cfg.tag = "x";
    cfg.share.path = "/nonexistent";
    assert_int_equal(virtio_9p_init(&p, &cfg, &e), -1);
    assert_non_null(strstr(e.msg, "/nonexistent"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_reply, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_config, setup, teardown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
