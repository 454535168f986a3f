/*
 * Requests from several sides at once: the threads of a disk, its loop, errors of the host.
 */
#include <linux/magic.h>
#include <pthread.h>
#include <sys/vfs.h>

#include "block/block.h"
#include "disk.h"

#define SIZE (8 * MiB)

/* --- many threads on one image --- */

#define WORKERS 4
#define GRAIN   1536 /* bytes in turn for each worker: they share clusters */

struct worker {
    struct image *m;
    unsigned me;
    u64 seed;
    u32 *mine; /* what this worker's grains hold */
    char why[80];
    pthread_t thread;
};

static void stamp(u8 *p, u32 v)
{
    for (unsigned i = 0; i < GRAIN; i += 4)
        memcpy(p + i, &v, 4);
}

static int one_step(struct worker *w)
{
    u8 buf[GRAIN], want[GRAIN];
    u64 grains = SIZE / GRAIN / WORKERS, k = rnd(&w->seed) % grains;
    u64 off = (k * WORKERS + w->me) * GRAIN;
    struct iovec v[2] = {{buf, 512}, {buf + 512, GRAIN - 512}};
    unsigned what = rnd(&w->seed) % 16;
    if (what < 6) {
        stamp(buf, w->mine[k] = (u32)rnd(&w->seed) | 1);
        if (what % 2 == 0 || image_try_writev(w->m, off, v, 2, GRAIN))
            return image_writev(w->m, off, v, 2, GRAIN);
        return 0;
    }
    if (what == 6)
        return image_flush(w->m);
    if (what == 7) {
        w->mine[k] = 0;
        return image_zero(w->m, off, GRAIN, true);
    }
    stamp(want, w->mine[k]);
    memset(buf, 0xee, sizeof(buf));
    if (what % 2 == 0 || image_try_readv(w->m, off, v, 2, GRAIN)) {
        int rc = image_readv(w->m, off, v, 2, GRAIN);
        if (rc)
            return rc;
    }
    return memcmp(buf, want, GRAIN) ? 1 : 0;
}

static void *worker(void *arg)
{
    struct worker *w = arg;
    for (unsigned i = 0; i < 3000 && !w->why[0]; i++) {
        int rc = one_step(w);
        if (rc)
            snprintf(w->why, sizeof(w->why), "worker %u, step %u: %d", w->me, i, rc);
    }
    return NULL;
}

static void many_threads(const struct qcow2_create *how)
{
    struct scratch s;
    struct worker w[WORKERS];
    scratch_make(&s);
    const char *path = scratch_path(&s, "image");
    if (how)
        make_image(path, how);
    else
        make_raw(path, SIZE);
    struct image_config c = {.file = path, .l2_tables = 8};
    struct image *m = open_image(&c);
    for (unsigned i = 0; i < WORKERS; i++) {
        w[i] = (struct worker){.m = m, .me = i, .seed = 77 + i};
        w[i].mine = calloc(SIZE / GRAIN, sizeof(u32));
        pthread_create(&w[i].thread, NULL, worker, &w[i]);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        pthread_join(w[i].thread, NULL);
        if (w[i].why[0])
            fail_msg("%s", w[i].why);
        free(w[i].mine);
    }
    if (how)
        check_image(m, true);
    assert_int_equal(image_close(m), 0);
    scratch_drop(&s);
}

static void test_threads_qcow2(void **state)
{
    many_threads(&(struct qcow2_create){.size = SIZE, .cluster_bits = 12});
    many_threads(&(struct qcow2_create){.size = SIZE, .cluster_bits = 9});
    many_threads(&(struct qcow2_create){.size = SIZE});
}

static void test_threads_raw(void **state)
{
    many_threads(NULL);
}

/* --- requests and their loop --- */

struct bench {
    struct scratch s;
    pthread_mutex_t lock;
    struct loop loop;
    struct block *b;
    struct block_req r[64];
    struct iovec v[64];
    u8 buf[64][4096];
    unsigned done;
    int fail; /* errno for the next writes, by the watch */
};

static struct bench *bench_of(struct block_req *r, unsigned i)
{
    return (struct bench *)((char *)(r - i) - offsetof(struct bench, r));
}

static void on_done(struct block_req *r)
{
    struct bench *b = bench_of(r, (unsigned)(r->flags >> 16));
    b->done++;
}

static int maybe_fail(void *arg, enum file_op op, u64 off, u64 len, const struct iovec *v,
                      unsigned n)
{
    struct bench *b = arg;
    return op == FILE_WRITE ? b->fail : 0;
}

static const char *bench_start(struct bench *b, bool qcow2, const struct file_watch *w)
{
    memset(b, 0, sizeof(*b));
    scratch_make(&b->s);
    pthread_mutex_init(&b->lock, NULL);
    assert_int_equal(loop_init(&b->loop, &b->lock, NULL), 0);
    const char *path = scratch_path(&b->s, "disk");
    if (qcow2)
        make_image(path, &(struct qcow2_create){.size = SIZE});
    else
        make_raw(path, SIZE);
    struct block_config c = {.file = path, .loop = &b->loop, .watch = w};
    struct err e;
    b->b = block_open(&c, &e);
    if (!b->b)
        fail_msg("%s", e.msg);
    return path;
}

static void bench_stop(struct bench *b)
{
    struct err e;
    assert_int_equal(block_close(b->b, &e), 0);
    loop_free(&b->loop);
    pthread_mutex_destroy(&b->lock);
    scratch_drop(&b->s);
}

static void request(struct bench *b, unsigned i, enum block_op op, u32 flags, u64 off, u64 len)
{
    b->v[i] = (struct iovec){b->buf[i], len};
    b->r[i] = (struct block_req){.op = op,
                                 .flags = flags | i << 16,
                                 .offset = off,
                                 .len = len,
                                 .iov = &b->v[i],
                                 .niov = 1,
                                 .done = on_done,
                                 .status = 99};
    pthread_mutex_lock(&b->lock);
    if (block_submit(b->b, &b->r[i]))
        b->done++;
    pthread_mutex_unlock(&b->lock);
}

static void wait_for(struct bench *b, unsigned n)
{
    for (unsigned i = 0; i < 5000 && b->done < n; i++)
        loop_wait(&b->loop, 1);
    assert_int_equal(b->done, n);
    b->done = 0;
}

static void round_trip(bool qcow2)
{
    struct bench *b = malloc(sizeof(*b));
    bench_start(b, qcow2, NULL);
    for (unsigned i = 0; i < 64; i++) {
        memset(b->buf[i], (int)i + 1, 4096);
        request(b, i, BLOCK_WRITE, i % 8 ? 0 : BLOCK_DURABLE, i * 73728, 4096);
    }
    wait_for(b, 64);
    request(b, 0, BLOCK_FLUSH, 0, 0, 0);
    wait_for(b, 1);
    assert_int_equal(b->r[0].status, 0);
    for (unsigned i = 0; i < 64; i++) {
        memset(b->buf[i], 0, 4096);
        request(b, i, BLOCK_READ, 0, i * 73728, 4096);
    }
    wait_for(b, 64);
    for (unsigned i = 0; i < 64; i++) {
        assert_int_equal(b->r[i].status, 0);
        assert_int_equal(b->buf[i][4095], i + 1);
    }
    request(b, 0, BLOCK_ZERO, BLOCK_MAY_UNMAP, 0, MiB);
    request(b, 1, BLOCK_DISCARD, 0, MiB, MiB);
    request(b, 2, BLOCK_READ, 0, SIZE - 512, 1024); /* past the end */
    wait_for(b, 3);
    assert_int_equal(b->r[0].status, 0);
    assert_int_equal(b->r[1].status, 0);
    assert_int_equal(b->r[2].status, -EINVAL);
    request(b, 0, BLOCK_READ, 0, 73728, 4096);
    wait_for(b, 1);
    assert_int_equal(b->buf[0][0], 0);
    bench_stop(b);
    free(b);
}

static void test_round_trip(void **state)
{
    round_trip(false);
    round_trip(true);
}

/* What memory can answer is answered by whoever asks: also on tmpfs, which knows no RWF_NOWAIT. */
static void test_at_once(void **state)
{
    struct bench *b = malloc(sizeof(*b));
    struct statfs st;
    if (statfs("/dev/shm", &st) || st.f_type != TMPFS_MAGIC || access("/dev/shm", W_OK)) {
        print_message("# /dev/shm is no tmpfs to write to\n");
        free(b);
        skip();
    }
    for (unsigned qcow2 = 0; qcow2 < 2; qcow2++) {
        bench_start(b, qcow2, NULL);
        memset(b->buf[0], 7, 4096);
        request(b, 0, BLOCK_WRITE, BLOCK_DURABLE, 65536, 4096);
        wait_for(b, 1);
        request(b, 1, BLOCK_READ, 0, 65536, 4096);
        assert_int_equal(b->done, 1);
        assert_int_equal(b->r[1].status, 0);
        assert_memory_equal(b->buf[1], b->buf[0], 4096);
        bench_stop(b);
    }
    free(b);
}

/* After quiesce nothing is at work; every request is reported all the same. */
static void test_quiesce(void **state)
{
    struct bench *b = malloc(sizeof(*b));
    bench_start(b, true, NULL);
    for (unsigned i = 0; i < 64; i++)
        request(b, i, BLOCK_WRITE, BLOCK_DURABLE, i * 65536, 4096);
    block_quiesce(b->b);
    memset(b->buf, 0xff, sizeof(b->buf));
    wait_for(b, 64);
    unsigned cancelled = 0;
    for (unsigned i = 0; i < 64; i++) {
        assert_true(b->r[i].status == 0 || b->r[i].status == -ECANCELED);
        cancelled += b->r[i].status != 0;
    }
    assert_true(cancelled > 0);
    bench_stop(b);
    free(b);
}

/* A full host disk: an error for the guest, and the image stays whole. */
static void test_no_space(void **state)
{
    struct bench *b = malloc(sizeof(*b));
    struct file_watch w = {.change = maybe_fail, .arg = b};
    char path[128];
    strcpy(path, bench_start(b, true, &w));
    memset(b->buf[0], 1, 4096);
    request(b, 0, BLOCK_WRITE, BLOCK_DURABLE, 0, 4096);
    wait_for(b, 1);
    b->fail = ENOSPC;
    request(b, 0, BLOCK_WRITE, 0, MiB, 4096);
    request(b, 1, BLOCK_WRITE, BLOCK_DURABLE, 0, 4096);
    wait_for(b, 2);
    assert_int_equal(b->r[0].status, -ENOSPC);
    assert_int_equal(b->r[1].status, -ENOSPC);
    b->fail = 0;
    request(b, 0, BLOCK_WRITE, BLOCK_DURABLE, MiB, 4096);
    wait_for(b, 1);
    assert_int_equal(b->r[0].status, 0);
    assert_int_equal(block_close(b->b, NULL), 0);
    struct image_config c = {.file = path};
    struct image *m = open_image(&c);
    check_image(m, true);
    image_close(m);
    b->b = NULL;
    bench_stop(b);
    free(b);
}

/* --- guards --- */

/* A guest must not turn a raw image into a qcow2 one that names a file of the host's. */
static void test_disguise(void **state)
{
    struct scratch s;
    u8 sector[1024] = {'Q', 'F', 'I', 0xfb};
    scratch_make(&s);
    const char *path = scratch_path(&s, "disk");
    make_raw(path, MiB);
    struct image_config c = {.file = path};
    struct image *m = open_image(&c);
    struct iovec v = {sector, sizeof(sector)};
    assert_int_equal(image_try_writev(m, 0, &v, 1, sizeof(sector)), -EAGAIN);
    assert_int_equal(image_write(m, 0, sector, sizeof(sector)), -EPERM);
    sector[0] = 'X';
    assert_int_equal(image_write(m, 0, sector, sizeof(sector)), 0);
    sector[0] = 'Q';
    image_close(m);
    c.format = IMAGE_RAW;
    m = open_image(&c);
    assert_int_equal(image_write(m, 0, sector, sizeof(sector)), 0);
    image_close(m);
    scratch_drop(&s);
}

static void refused(struct scratch *s, const char *name, const char *part)
{
    struct err e = {""};
    struct image_config c = {.file = scratch_path(s, name)};
    assert_null(image_open(&c, &e));
    if (!strstr(e.msg, part) || !strstr(e.msg, name))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, part);
}

static void test_refused(void **state)
{
    struct scratch s;
    scratch_make(&s);
    refused(&s, "absent", "No such file");
    const char *path = scratch_path(&s, "vmdk");
    make_raw(path, MiB);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "KDMV", 4, 0), 4);
    close(fd);
    refused(&s, "vmdk", "VMDK");
    /* An image that is its own backing file. */
    path = scratch_path(&s, "loop");
    make_image(path,
               &(struct qcow2_create){.size = MiB, .backing = "loop2", .backing_format = "qcow2"});
    refused(&s, "loop", "loop2");
    make_image(scratch_path(&s, "loop2"),
               &(struct qcow2_create){.size = MiB, .backing = "loop3", .backing_format = "qcow2"});
    make_image(scratch_path(&s, "loop3"),
               &(struct qcow2_create){.size = MiB, .backing = "loop2", .backing_format = "qcow2"});
    refused(&s, "loop", "backing file");
    make_image(
        scratch_path(&s, "odd"),
        &(struct qcow2_create){.size = MiB, .backing = "nbd://host/x", .backing_format = "raw"});
    refused(&s, "odd", "no plain file");
    refused(&s, "", "directory");
    scratch_drop(&s);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_qcow2), cmocka_unit_test(test_threads_raw),
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_quiesce),
        cmocka_unit_test(test_at_once),       cmocka_unit_test(test_no_space),
        cmocka_unit_test(test_disguise),      cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
