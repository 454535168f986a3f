/*
 * The disk as its driver sees it: requests, their checks, errors, resets.
 */
#include "disk.h"

#include "dev/virtio_blk.h"
#include "../dev/ring.h"

#define SIZE    (4 * MiB)
#define SECTORS (SIZE / 512)

enum { OK, IOERR, UNSUPP };

struct request {
    u32 type, reserved;
    u64 sector;
    u8 data[8192];
};

struct bench {
    struct scratch s;
    struct ring r;
    struct virtio_blk b;
    int fail;         /* errno for writes */
    unsigned stopped; /* times stop() was called */
};

static int maybe_fail(void *arg, enum file_op op, u64 off, u64 len, const struct iovec *v,
                      unsigned n)
{
    struct bench *b = arg;
    return op == FILE_WRITE ? b->fail : 0;
}

static void on_stop(void *arg, const char *why)
{
    struct bench *b = arg;
    assert_non_null(strstr(why, "No space"));
    b->stopped++;
}

static struct bench *start(bool ro, bool stop_on_error)
{
    struct bench *b = calloc(1, sizeof(*b));
    struct err e;
    scratch_make(&b->s);
    ring_init(&b->r);
    const char *path = scratch_path(&b->s, "disk");
    make_raw(path, SIZE);
    struct file_watch *w = calloc(1, sizeof(*w));
    *w = (struct file_watch){.change = maybe_fail, .arg = b};
    struct virtio_blk_config c = {
        .disk = {.file = path, .format = IMAGE_RAW, .ro = ro, .loop = &b->r.loop, .watch = w},
        .serial = "serial-0123456789abcdef",
        .queues = 2,
        .stop_on_error = stop_on_error,
        .stop = on_stop,
        .arg = b,
    };
    if (virtio_blk_init(&b->b, &c, &b->r.mem, &e))
        fail_msg("%s", e.msg);
    ring_start(&b->r, &b->b.v);
    return b;
}

static void stop(struct bench *b)
{
    assert_int_equal(virtio_blk_free(&b->b, NULL), 0);
    free((void *)b->b.cfg.disk.watch);
    ring_free(&b->r);
    scratch_drop(&b->s);
    free(b);
}

static unsigned add(struct bench *b, unsigned q, u32 type, u64 sector, const void *data, u32 out,
                    u32 in)
{
    struct request rq = {.type = type, .sector = sector};
    if (out)
        memcpy(rq.data, data, out);
    return ring_add(&b->r, q, &rq, 16 + out, in + 1);
}

/* One request by itself; its status, and what it read at `*got`. */
static int run(struct bench *b, u32 type, u64 sector, const void *data, u32 out, u32 in, u8 **got)
{
    struct ring_done done;
    unsigned head = add(b, 0, type, sector, data, out, in);
    u8 *buf = ring_buf(&b->r, 0, head + 1);
    memset(buf, 0xee, in + 1);
    ring_kick(&b->r, 0);
    assert_true(ring_wait(&b->r, 0, &done));
    assert_int_equal(done.head, head);
    if (got)
        *got = buf;
    return buf[in];
}

static void test_config(void **state)
{
    struct bench *b = start(false, false);
    struct virtio_dev *d = &b->b.v;
    assert_int_equal(virtio_config_read(d, 0, 8), SECTORS);
    assert_int_equal(virtio_config_read(d, 20, 4), 512);
    assert_int_equal(virtio_config_read(d, 34, 2), 2);
    assert_int_equal(virtio_config_read(d, 32, 1), 1);
    virtio_config_write(d, 32, 1, 0);
    assert_int_equal(virtio_config_read(d, 32, 1), 0);
    virtio_config_write(d, 0, 1, 0); /* not the driver's to change */
    assert_int_equal(virtio_config_read(d, 0, 8), SECTORS);
    stop(b);
}

static void test_data(void **state)
{
    struct bench *b = start(false, false);
    u8 data[4096], *got;
    memset(data, 0x5a, sizeof(data));
    assert_int_equal(run(b, 1, 8, data, 4096, 0, NULL), OK);
    assert_int_equal(run(b, 0, 8, NULL, 0, 4096, &got), OK);
    assert_memory_equal(got, data, 4096);
    assert_int_equal(run(b, 0, SECTORS - 1, NULL, 0, 512, &got), OK);
    assert_int_equal(got[0], 0);
    assert_int_equal(run(b, 4, 0, NULL, 0, 0, NULL), OK);
    virtio_config_write(&b->b.v, 32, 1, 0); /* writes through from now on */
    assert_int_equal(run(b, 1, 16, data, 512, 0, NULL), OK);
    stop(b);
}

static void test_id(void **state)
{
    struct bench *b = start(false, false);
    u8 *got;
    assert_int_equal(run(b, 8, 0, NULL, 0, 20, &got), OK);
    assert_memory_equal(got, "serial-0123456789abc", 20);
    assert_int_equal(run(b, 8, 0, NULL, 0, 4, &got), OK);
    assert_memory_equal(got, "seri", 4);
    stop(b);
}

static void test_ranges(void **state)
{
    struct bench *b = start(false, false);
    struct {
        u64 sector;
        u32 sectors, flags;
    } r[2] = {{8, 8, 0}, {32, 4, 1}};
    u8 data[4096], *got;
    memset(data, 1, sizeof(data));
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(run(b, 1, 8 * i, data, 4096, 0, NULL), OK);
    assert_int_equal(run(b, 13, 0, r, 32, 0, NULL), OK);
    assert_int_equal(run(b, 0, 4, NULL, 0, 4096, &got), OK);
    assert_int_equal(got[4 * 512 - 1], 1);
    assert_int_equal(got[4 * 512], 0);
    assert_int_equal(run(b, 0, 32, NULL, 0, 4096, &got), OK);
    assert_int_equal(got[4 * 512 - 1], 0);
    assert_int_equal(got[4 * 512], 1);
    assert_int_equal(run(b, 11, 0, r, 32, 0, NULL), UNSUPP); /* flags of a discard */
    r[1].flags = 0;
    assert_int_equal(run(b, 11, 0, r, 32, 0, NULL), OK);
    r[1].sector = SECTORS - 3;
    assert_int_equal(run(b, 11, 0, r, 32, 0, NULL), IOERR);
    r[1].sector = ~0ull;
    assert_int_equal(run(b, 13, 0, r, 32, 0, NULL), IOERR);
    assert_int_equal(run(b, 13, 0, r, 31, 0, NULL), IOERR);
    stop(b);
}

static void test_checks(void **state)
{
    struct bench *b = start(false, false);
    u8 data[4096] = {0};
    assert_int_equal(run(b, 0, SECTORS, NULL, 0, 512, NULL), IOERR);
    assert_int_equal(run(b, 0, SECTORS - 1, NULL, 0, 1024, NULL), IOERR);
    assert_int_equal(run(b, 0, ~0ull, NULL, 0, 512, NULL), IOERR);
    assert_int_equal(run(b, 1, ~0ull >> 9, data, 512, 0, NULL), IOERR);
    assert_int_equal(run(b, 0, 0, NULL, 0, 511, NULL), IOERR);
    assert_int_equal(run(b, 0, 0, NULL, 0, 0, NULL), OK);
    assert_int_equal(run(b, 99, 0, NULL, 0, 512, NULL), UNSUPP);
    assert_false(b->b.v.broken);
    /* No room for a header: there is no way to answer. */
    ring_add(&b->r, 0, data, 8, 1);
    ring_kick(&b->r, 0);
    assert_true(b->b.v.broken);
    ring_start(&b->r, &b->b.v);
    assert_int_equal(run(b, 0, 0, NULL, 0, 512, NULL), OK);
    stop(b);
}

static void test_read_only(void **state)
{
    struct bench *b = start(true, true);
    u8 data[512] = {0};
    assert_true(b->b.v.offered & BIT(5));
    assert_int_equal(run(b, 1, 0, data, 512, 0, NULL), IOERR);
    assert_int_equal(run(b, 0, 0, NULL, 0, 512, NULL), OK);
    assert_int_equal(run(b, 4, 0, NULL, 0, 0, NULL), OK);
    assert_int_equal(run(b, 11, 0, data, 16, 0, NULL), UNSUPP);
    assert_int_equal(b->stopped, 0);
    stop(b);
}

static void test_report(void **state)
{
    struct bench *b = start(false, false);
    u8 data[512] = {0};
    b->fail = ENOSPC;
    assert_int_equal(run(b, 1, 0, data, 512, 0, NULL), IOERR);
    b->fail = 0;
    assert_int_equal(run(b, 1, 0, data, 512, 0, NULL), OK);
    stop(b);
}

/* The request waits until the machine goes on, and then succeeds. */
static void test_stop(void **state)
{
    struct bench *b = start(false, true);
    struct ring_done done;
    u8 data[512] = {7};
    b->fail = ENOSPC;
    for (unsigned i = 0; i < 3; i++)
        add(b, 0, 1, i, data, 512, 0);
    ring_kick(&b->r, 0);
    for (unsigned i = 0; i < 20; i++)
        loop_wait(&b->r.loop, 1);
    assert_false(ring_take(&b->r, 0, &done));
    assert_int_equal(b->stopped, 1);
    virtio_blk_retry(&b->b);
    assert_false(ring_take(&b->r, 0, &done));
    assert_int_equal(b->stopped, 2);
    b->fail = 0;
    virtio_blk_retry(&b->b);
    for (unsigned i = 0; i < 3; i++)
        assert_true(ring_wait(&b->r, 0, &done));
    b->fail = ENOSPC;
    add(b, 0, 1, 0, data, 512, 0);
    ring_kick(&b->r, 0);
    assert_int_equal(b->stopped, 3);
    ring_start(&b->r, &b->b.v); /* a reset forgets it */
    assert_null(b->b.stalled);
    stop(b);
}

/* A reset with flushes in flight: nothing is pushed afterwards. */
static void test_reset(void **state)
{
    struct bench *b = start(false, false);
    struct ring_done done;
    u8 data[512] = {7};
    for (unsigned round = 0; round < 50; round++) {
        virtio_config_write(&b->b.v, 32, 1, 0);
        for (unsigned i = 0; i < 4; i++) {
            add(b, 0, 1, i, data, 512, 0);
            add(b, 1, 4, 0, NULL, 0, 0);
        }
        ring_kick(&b->r, 0);
        ring_kick(&b->r, 1);
        ring_start(&b->r, &b->b.v);
        ring_turn(&b->r);
        assert_false(ring_take(&b->r, 0, &done));
        assert_false(ring_take(&b->r, 1, &done));
        assert_int_equal(b->b.v.q[0].inflight + b->b.v.q[1].inflight, 0);
    }
    assert_int_equal(run(b, 4, 0, NULL, 0, 0, NULL), OK);
    stop(b);
}

static void test_state(void **state)
{
    struct bench *b = start(false, false);
    u8 data[512] = {7}, *got;
    assert_int_equal(run(b, 1, 0, data, 512, 0, NULL), OK);
    virtio_config_write(&b->b.v, 32, 1, 0);
    assert_int_equal(virtio_blk_drain(&b->b), 0);
    struct state out, in;
    state_init_save(&out);
    virtio_blk_state(&b->b, &out);
    assert_false(out.failed);
    virtio_reset(&b->b.v);
    assert_int_equal(b->b.config[32], 1);
    state_init_load(&in, out.buf, out.len);
    virtio_blk_state(&b->b, &in);
    assert_false(in.failed);
    assert_int_equal(b->b.config[32], 0);
    assert_int_equal(run(b, 0, 0, NULL, 0, 512, &got), OK);
    assert_int_equal(got[0], 7);
    state_free(&out);
    stop(b);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config), cmocka_unit_test(test_data),
        cmocka_unit_test(test_id),     cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_checks), cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_report), cmocka_unit_test(test_stop),
        cmocka_unit_test(test_reset),  cmocka_unit_test(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
