/*
 * Random reads, writes, zeroes and discards on images of every shape, beside an array in memory
 * that must always agree; the image is checked and opened again in between.
 */
#include "disk.h"

#define SIZE (3 * MiB + 1536)
#define UNIT 512ull

struct shape {
    const char *name;
    struct qcow2_create how;
    u64 backing; /* bytes of a raw file below; 0: none */
    bool direct;
    unsigned l2_tables;
};

static const struct shape shapes[] = {
    {"64k", {.size = SIZE}},
    {"512", {.size = SIZE, .cluster_bits = 9}, .l2_tables = 3},
    {"4k backed", {.size = SIZE, .cluster_bits = 12}, .backing = 2 * MiB + 512, .l2_tables = 2},
    {"64k backed by more", {.size = SIZE}, .backing = 4 * MiB},
    {"v2", {.size = SIZE, .cluster_bits = 12, .version = 2}},
    {"v2 backed", {.size = SIZE, .cluster_bits = 10, .version = 2}, .backing = MiB},
    {"lazy", {.size = SIZE, .cluster_bits = 9, .lazy = true}, .l2_tables = 4},
    {"refcounts of 1 bit", {.size = SIZE, .cluster_bits = 12, .refcount_order = 1}},
    {"refcounts of 4 bits", {.size = SIZE, .cluster_bits = 9, .refcount_order = 3}},
    {"refcounts of 64 bits", {.size = SIZE, .cluster_bits = 9, .refcount_order = 7}},
    {"2M", {.size = SIZE, .cluster_bits = 21}, .backing = MiB},
    {"direct", {.size = SIZE, .cluster_bits = 12}, .backing = MiB, .direct = true},
};

struct bench {
    const struct shape *shape;
    struct scratch s;
    char file[128];
    u64 seed;
    u8 *model, *buf;
    bool *loose; /* per unit: discarded, reads as whatever it was */
    struct image *m;
};

static void reopen(struct bench *b)
{
    struct image_config c = {
        .file = b->file, .direct = b->shape->direct, .l2_tables = b->shape->l2_tables};
    if (b->m)
        assert_int_equal(image_close(b->m), 0);
    b->m = open_image(&c);
    assert_int_equal(b->m->size, SIZE);
}

static void fill(u8 *p, u64 len, u64 *seed)
{
    for (u64 i = 0; i + 8 <= len; i += 8) {
        u64 v = rnd(seed) | 1;
        memcpy(p + i, &v, 8);
    }
}

static void make_backing(struct bench *b)
{
    const char *path = scratch_path(&b->s, "base");
    make_raw(path, b->shape->backing);
    fill(b->buf, b->shape->backing, &b->seed);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, b->buf, b->shape->backing, 0), (ssize_t)b->shape->backing);
    close(fd);
    memcpy(b->model, b->buf, min_u64(b->shape->backing, SIZE));
}

static void start(struct bench *b, const struct shape *shape)
{
    *b = (struct bench){.shape = shape, .seed = 88172645463325252ull + (u64)(shape - shapes)};
    scratch_make(&b->s);
    b->model = calloc(1, SIZE);
    b->buf = aligned_alloc(4096, 5 * MiB);
    b->loose = calloc(SIZE / UNIT, sizeof(bool));
    struct qcow2_create how = shape->how;
    if (shape->backing) {
        make_backing(b);
        how.backing = "base";
        how.backing_format = "raw";
    }
    strcpy(b->file, scratch_path(&b->s, "image"));
    make_image(b->file, &how);
    reopen(b);
}

static void stop(struct bench *b)
{
    assert_int_equal(image_close(b->m), 0);
    free(b->model);
    free(b->buf);
    free(b->loose);
    scratch_drop(&b->s);
}

static void pick(struct bench *b, u64 *off, u64 *len)
{
    u64 units = SIZE / UNIT, most = rnd(&b->seed) % 4 ? 64 : 1500;
    *off = rnd(&b->seed) % units;
    *len = 1 + rnd(&b->seed) % most;
    if (*len > units - *off)
        *len = units - *off;
    *off *= UNIT;
    *len *= UNIT;
}

static void compare(struct bench *b, u64 off, u64 len)
{
    for (u64 i = 0; i < len; i += UNIT) {
        if (b->loose[(off + i) / UNIT])
            memcpy(b->model + off + i, b->buf + i, UNIT); /* from now on it stays so */
        b->loose[(off + i) / UNIT] = false;
        if (memcmp(b->model + off + i, b->buf + i, UNIT))
            fail_msg("%s: other data at %llu", b->shape->name, (unsigned long long)(off + i));
    }
}

static void do_read(struct bench *b, u64 off, u64 len)
{
    struct iovec v[16];
    memset(b->buf, 0xee, len);
    unsigned n = cut(v, 16, b->buf, len, UNIT, &b->seed);
    if (rnd(&b->seed) % 2 || image_try_readv(b->m, off, v, n, len))
        assert_int_equal(image_readv(b->m, off, v, n, len), 0);
    compare(b, off, len);
}

static void do_write(struct bench *b, u64 off, u64 len)
{
    struct iovec v[16];
    fill(b->buf, len, &b->seed);
    memcpy(b->model + off, b->buf, len);
    memset(b->loose + off / UNIT, 0, len / UNIT);
    unsigned n = cut(v, 16, b->buf, len, UNIT, &b->seed);
    if (rnd(&b->seed) % 2 || image_try_writev(b->m, off, v, n, len))
        assert_int_equal(image_writev(b->m, off, v, n, len), 0);
}

static void do_zero(struct bench *b, u64 off, u64 len)
{
    memset(b->model + off, 0, len);
    memset(b->loose + off / UNIT, 0, len / UNIT);
    assert_int_equal(image_zero(b->m, off, len, rnd(&b->seed) % 2), 0);
}

static void do_discard(struct bench *b, u64 off, u64 len)
{
    for (u64 i = 0; i < len; i += UNIT)
        b->loose[(off + i) / UNIT] = true;
    assert_int_equal(image_discard(b->m, off, len), 0);
}

static void step(struct bench *b)
{
    u64 off, len;
    pick(b, &off, &len);
    switch (rnd(&b->seed) % 16) {
    case 0 ... 5:
        do_write(b, off, len);
        break;
    case 6 ... 11:
        do_read(b, off, len);
        break;
    case 12:
        do_zero(b, off, len);
        break;
    case 13:
        do_discard(b, off, len);
        break;
    case 14:
        assert_int_equal(image_flush(b->m), 0);
        break;
    default:
        if (rnd(&b->seed) % 8 == 0) {
            reopen(b);
            check_image(b->m, true);
        }
        break;
    }
}

static void test_random(void **state)
{
    struct bench b;
    start(&b, *state);
    unsigned steps = b.shape->direct ? 200 : 600;
    for (unsigned i = 0; i < steps; i++)
        step(&b);
    check_image(b.m, true);
    reopen(&b);
    check_image(b.m, true);
    do_read(&b, 0, SIZE);
    stop(&b);
}

/* Map says zero only where zeros are, and covers everything. */
static void test_map(void **state)
{
    struct bench b;
    start(&b, &shapes[2]);
    for (unsigned i = 0; i < 50; i++)
        step(&b);
    struct image_extent x;
    do_read(&b, 0, SIZE);
    for (u64 off = 0; off < SIZE; off += x.len) {
        assert_int_equal(image_map(b.m, off, SIZE - off, &x), 0);
        assert_true(x.len > 0 && x.len <= SIZE - off);
        for (u64 i = 0; x.zero && i < x.len; i++)
            assert_int_equal(b.model[off + i], 0);
    }
    stop(&b);
}

static void test_resize(void **state)
{
    struct bench b;
    struct err e;
    start(&b, &shapes[1]);
    do_write(&b, 0, SIZE);
    /* The L1 table moves, and the refcount table grows. */
    assert_int_equal(qcow2_resize(b.m, 40 * MiB, &e), 0);
    check_image(b.m, true);
    for (u64 off = 4 * MiB; off < 40 * MiB; off += 4 * MiB)
        assert_int_equal(image_write(b.m, off, b.buf, MiB), 0);
    check_image(b.m, true);
    assert_int_equal(qcow2_resize(b.m, SIZE - 700 * 512, &e), 0);
    assert_int_equal(qcow2_resize(b.m, SIZE, &e), 0);
    memset(b.model + SIZE - 700 * 512, 0, 700 * 512);
    do_read(&b, 0, SIZE);
    reopen(&b);
    check_image(b.m, true);
    do_read(&b, 0, SIZE);
    stop(&b);
}

static void compressed(enum qcow2_compression how, u32 cluster_bits)
{
    struct bench b;
    struct shape s = {"compressed",
                      {.size = SIZE, .compression = how, .cluster_bits = cluster_bits}};
    start(&b, &s);
    u64 cluster = 1ull << cluster_bits;
    for (u64 off = 0; off < SIZE; off += cluster) {
        u64 len = min_u64(cluster, SIZE - off);
        memset(b.buf, 0, cluster);
        if (rnd(&b.seed) % 4) /* most compress well, some not at all */
            memset(b.buf, (int)(rnd(&b.seed) & 0xff), cluster / 2);
        else
            fill(b.buf, cluster, &b.seed);
        memset(b.buf + len, 0, cluster - len);
        memcpy(b.model + off, b.buf, len);
        assert_int_equal(qcow2_write_compressed(b.m, off, b.buf), 0);
    }
    check_image(b.m, true);
    do_read(&b, 0, SIZE);
    reopen(&b);
    check_image(b.m, true);
    for (unsigned i = 0; i < 200; i++)
        step(&b);
    check_image(b.m, true);
    do_read(&b, 0, SIZE);
    stop(&b);
}

static void test_compressed(void **state)
{
    compressed(QCOW2_ZLIB, 16);
    compressed(QCOW2_ZLIB, 9);
    compressed(QCOW2_ZSTD, 16);
    compressed(QCOW2_ZSTD, 12);
}

/* A lazy image that was not closed: its refcounts are rebuilt. */
static void test_lazy_crash(void **state)
{
    struct bench b;
    start(&b, &shapes[6]);
    do_write(&b, 0, SIZE);
    assert_int_equal(image_flush(b.m), 0);
    char cmd[400];
    snprintf(cmd, sizeof(cmd), "cp '%s' '%s.copy'", b.file, b.file);
    assert_int_equal(system(cmd), 0);
    struct image_config c = {.file = scratch_path(&b.s, "image.copy"), .ro = true};
    struct image *m = open_image(&c);
    assert_true(qcow2_of(m)->incompat & QCOW2_DIRTY);
    image_close(m);
    c.ro = false;
    m = open_image(&c);
    assert_false(qcow2_of(m)->incompat & QCOW2_DIRTY);
    check_image(m, true);
    assert_int_equal(image_read(m, 0, b.buf, SIZE), 0);
    compare(&b, 0, SIZE);
    image_close(m);
    stop(&b);
}

static void test_locks(void **state)
{
    struct scratch s;
    struct err e = {""};
    scratch_make(&s);
    const char *path = scratch_path(&s, "image");
    make_image(path, &(struct qcow2_create){.size = MiB});
    struct image_config w = {.file = path}, r = {.file = path, .ro = true};
    struct image *m = open_image(&w);
    assert_null(image_open(&w, &e));
    assert_non_null(strstr(e.msg, path));
    assert_non_null(strstr(e.msg, "in use"));
    assert_null(image_open(&r, &e));
    image_close(m);
    struct image *r1 = open_image(&r), *r2 = open_image(&r);
    assert_null(image_open(&w, &e));
    assert_non_null(strstr(e.msg, "in use"));
    image_close(r1);
    image_close(r2);
    image_close(open_image(&w));
    scratch_drop(&s);
}

static void test_overlay(void **state)
{
    struct scratch s;
    struct err e = {""};
    scratch_make(&s);
    const char *path = scratch_path(&s, "image");
    make_raw(path, 3 * MiB);
    struct image_config r = {.file = path, .ro = true};
    struct image *m = image_overlay(open_image(&r), &e);
    assert_non_null(m);
    u8 buf[4096];
    memset(buf, 7, sizeof(buf));
    assert_int_equal(image_write(m, MiB + 512, buf, sizeof(buf)), 0);
    memset(buf, 0, sizeof(buf));
    assert_int_equal(image_read(m, MiB + 512, buf, sizeof(buf)), 0);
    assert_int_equal(buf[0] + buf[4095], 14);
    assert_int_equal(image_flush(m), 0);
    assert_int_equal(image_read(m->backing, MiB + 512, buf, sizeof(buf)), 0);
    assert_int_equal(buf[0], 0);
    image_close(m);
    scratch_drop(&s);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    struct CMUnitTest tests[ARRAY_SIZE(shapes) + 6];
    unsigned n = 0;
    for (; n < ARRAY_SIZE(shapes); n++)
        tests[n] = (struct CMUnitTest){shapes[n].name, test_random, NULL, NULL, (void *)&shapes[n]};
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_map);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_resize);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_compressed);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_lazy_crash);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_locks);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_overlay);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
