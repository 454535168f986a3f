/*
 * virtio-fs: its configuration, requests and those that want no reply, on both queues, a reset, and
 * damaged chains. What the requests mean is tested in test/share.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <unistd.h>

#include "dev/virtio_fs.h"
#include "ring.h"
#include "share/share_fuse.h"

static struct ring ring;
static struct virtio_fs dev;
static char top[32];

static int setup(void **state)
{
    struct virtio_fs_config cfg = {.tag = "share0", .loop = &ring.loop, .mem = &ring.mem};
    strcpy(top, "/var/tmp/popf-fs.XXXXXX");
    cfg.share.path = mkdtemp(top);
    ring_init(&ring);
    assert_int_equal(virtio_fs_init(&dev, &cfg, NULL), 0);
    ring_start(&ring, &dev.v);
    return 0;
}

static int teardown(void **state)
{
    pthread_mutex_lock(&ring.lock);
    virtio_fs_free(&dev);
    pthread_mutex_unlock(&ring.lock);
    ring_free(&ring);
    return rmdir(top);
}

static void submit(unsigned q, u32 opcode, u64 nodeid, const void *body, u32 n, u32 in)
{
    u8 buf[128] = {0};
    struct fuse_in h = {.len = sizeof(h) + n, .opcode = opcode, .unique = opcode, .nodeid = nodeid};
    memcpy(buf, &h, sizeof(h));
    memcpy(buf + sizeof(h), body, n);
    ring_add(&ring, q, buf, h.len, in);
    ring_kick(&ring, q);
}

/* The error in the reply. */
static s32 reply(unsigned q, u32 len)
{
    struct ring_done d;
    struct fuse_out o;
    assert_true(ring_wait(&ring, q, &d));
    assert_int_equal(d.len, len);
    memcpy(&o, ring_buf(&ring, q, d.head + 1), sizeof(o));
    assert_int_equal(o.len, len);
    return o.error;
}

static void begin(void)
{
    static const u32 hello[4] = {7, 36, 65536, 0};
    submit(1, FUSE_INIT, 0, hello, sizeof(hello), 4096);
    assert_int_equal(reply(1, 80), 0);
}

static void test_config(void **state)
{
    assert_int_equal(dev.v.id, 26);
    assert_int_equal(dev.v.nqueues, 2);
    assert_int_equal(virtio_config_read(&dev.v, 0, 4), 0x72616873);
    assert_int_equal(virtio_config_read(&dev.v, 4, 4), 0x3065);
    assert_int_equal(virtio_config_read(&dev.v, 36, 4), 1);
    assert_int_equal(virtio_config_read(&dev.v, 40, 4), UINT64_MAX);
}

static void test_requests(void **state)
{
    static const u64 body[2] = {1, 0};
    struct ring_done d;
    begin();
    submit(1, FUSE_GETATTR, 1, body, 16, 4096);
    assert_int_equal(reply(1, 120), 0);
    submit(1, FUSE_GETATTR, 2, body, 16, 4096);
    assert_int_equal(reply(1, 16), -9);
    submit(0, FUSE_FORGET, 1, body, 8, 0); /* the queue for what must not wait */
    assert_true(ring_wait(&ring, 0, &d));
    assert_int_equal(d.len, 0);
    submit(1, FUSE_GETATTR, 1, body, 16, 100); /* no room for the reply */
    assert_int_equal(reply(1, 16), -5);
    submit(1, FUSE_GETATTR, 1, body, 16, 8);
    assert_true(ring_wait(&ring, 1, &d));
    assert_int_equal(d.len, 0);
    assert_false(dev.v.broken);
}

static void test_reset(void **state)
{
    static const u64 body[2] = {0};
    struct ring_done d;
    for (int i = 0; i < 30; i++) {
        begin();
        submit(1, FUSE_GETATTR, 1, body, 16, 4096);
        ring_start(&ring, &dev.v);
        ring_turn(&ring);
        assert_false(ring_take(&ring, 1, &d));
    }
    submit(1, FUSE_GETATTR, 1, body, 16, 4096);
    assert_int_equal(reply(1, 16), -5); /* the session is over */
}

static void test_broken(void **state)
{
    u64 outside = 1ull << 40;
    ring_add(&ring, 1, "x", 1, 16);
    memcpy(mem_ptr(&ring.mem, ring_at(1)), &outside, 8);
    ring_kick(&ring, 1);
    assert_true(dev.v.broken);
    ring_start(&ring, &dev.v);
    begin();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken, setup, teardown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
