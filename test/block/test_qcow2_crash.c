/*
 * Power cuts. Everything that is written to the file is recorded, with the syncs between; then, for
 * many points of the record, the file is made as a crash may leave it:
 *   - killed: all that was written before that point is there;
 *   - power loss: all before the last sync is there, and of the rest any sectors or none.
 * Each must be an image without errors (leaks are allowed), in which every sector holds what it
 * held at the last flush that was acknowledged, or something written to it later.
 */
#include "disk.h"

#define SIZE    (768 * KiB)
#define SECTORS (SIZE / 512)
#define STEPS   220

struct event {
    enum file_op op;
    u64 off, len;
    u8 *data;
};

/* What a sector was given: a number, or zeros, or nothing in particular. */
struct version {
    u32 id;      /* 0: zeros */
    bool loose;  /* discarded: any earlier version will do, or zeros */
    size_t from; /* events that had been recorded when this began */
};

struct history {
    struct version *v;
    unsigned n, flushed; /* v[flushed] was current at the last flush; that is kept per flush */
};

struct flushed {
    size_t events; /* recorded when it was acknowledged */
    unsigned at[SECTORS];
};

struct bench {
    struct scratch s;
    char file[128], crashed[128];
    struct qcow2_create how;
    u64 backing;
    u64 seed;
    u8 *start;
    u64 start_len;
    struct event *ev;
    size_t nev;
    struct history h[SECTORS];
    struct flushed *fl;
    unsigned nfl;
    u32 next_id;
};

static int record(void *arg, enum file_op op, u64 off, u64 len, const struct iovec *v, unsigned n)
{
    struct bench *b = arg;
    struct event e = {.op = op, .off = off, .len = len};
    if (op == FILE_WRITE) {
        u8 *p = e.data = malloc(len);
        for (unsigned i = 0; i < n; i++) {
            memcpy(p, v[i].iov_base, v[i].iov_len);
            p += v[i].iov_len;
        }
    }
    if (!(b->nev & (b->nev - 1)))
        b->ev = realloc(b->ev, (b->nev ? 2 * b->nev : 1) * sizeof(e));
    b->ev[b->nev++] = e;
    return 0;
}

static void stamp(u8 *p, u32 id, u64 sector)
{
    if (!id) {
        memset(p, 0, 512);
        return;
    }
    for (unsigned i = 0; i < 512; i += 8) {
        u32 w[2] = {id, (u32)sector ^ 0xa5a5a5a5};
        memcpy(p + i, w, 8);
    }
}

static void remember(struct bench *b, u64 sector, struct version v)
{
    struct history *h = &b->h[sector];
    if (!(h->n & (h->n - 1)))
        h->v = realloc(h->v, (h->n ? 2 * h->n : 1) * sizeof(v));
    h->v[h->n++] = v;
}

static void flush(struct bench *b, struct image *m)
{
    assert_int_equal(image_flush(m), 0);
    b->fl = realloc(b->fl, (b->nfl + 1) * sizeof(*b->fl));
    struct flushed *f = &b->fl[b->nfl++];
    f->events = b->nev;
    for (u64 i = 0; i < SECTORS; i++)
        f->at[i] = b->h[i].n - 1;
}

static void change(struct bench *b, struct image *m)
{
    u64 first = rnd(&b->seed) % SECTORS, n = 1 + rnd(&b->seed) % (rnd(&b->seed) % 5 ? 12 : 200);
    if (n > SECTORS - first)
        n = SECTORS - first;
    unsigned what = rnd(&b->seed) % 10;
    struct version v = {.id = what < 8 ? ++b->next_id : 0, .loose = what == 9, .from = b->nev};
    for (u64 i = first; i < first + n; i++)
        remember(b, i, v);
    u8 *buf = malloc(n * 512);
    for (u64 i = 0; i < n; i++)
        stamp(buf + i * 512, v.id, first + i);
    int rc = what < 8    ? image_write(m, first * 512, buf, n * 512)
             : what == 8 ? image_zero(m, first * 512, n * 512, rnd(&b->seed) % 2)
                         : image_discard(m, first * 512, n * 512);
    assert_int_equal(rc, 0);
    free(buf);
}

static u8 *load(const char *path, u64 *len)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *len = (u64)ftell(f);
    rewind(f);
    u8 *p = malloc(*len + 1);
    assert_int_equal(fread(p, 1, *len, f), *len);
    fclose(f);
    return p;
}

static void setup(struct bench *b, const struct qcow2_create *how, u64 backing, u64 seed)
{
    *b = (struct bench){.how = *how, .backing = backing, .seed = seed, .next_id = 1};
    b->how.size = SIZE;
    scratch_make(&b->s);
    strcpy(b->file, scratch_path(&b->s, "image"));
    strcpy(b->crashed, scratch_path(&b->s, "crashed"));
    if (backing) {
        const char *base = scratch_path(&b->s, "base");
        make_raw(base, backing);
        int fd = open(base, O_WRONLY);
        for (u64 i = 0; i < backing / 512; i++) {
            u8 sector[512];
            stamp(sector, 1, i);
            assert_int_equal(pwrite(fd, sector, 512, (off_t)i * 512), 512);
        }
        close(fd);
        b->how.backing = "base";
        b->how.backing_format = "raw";
    }
    for (u64 i = 0; i < SECTORS; i++)
        remember(b, i, (struct version){.id = i < backing / 512});
    make_image(b->file, &b->how);
    b->start = load(b->file, &b->start_len);
}

/* --- a crash --- */

static void apply(u8 **img, u64 *len, const struct event *e, u64 *torn)
{
    if (e->op == FILE_SYNC)
        return;
    u64 end = e->off + e->len;
    if (end > *len && e->op == FILE_WRITE) {
        *img = realloc(*img, end);
        memset(*img + *len, 0, end - *len);
        *len = end;
    }
    end = min_u64(end, *len);
    bool keep = torn && rnd(torn) % 3 == 0; /* all or nothing of it, or sector by sector */
    bool all = torn && rnd(torn) % 2;
    for (u64 at = e->off; at < end;) {
        u64 n = min_u64(512 - at % 512, end - at);
        bool there = !torn || (all ? !keep : rnd(torn) % 2);
        if (there && e->data)
            memcpy(*img + at, e->data + (at - e->off), n);
        else if (there)
            memset(*img + at, 0, n);
        at += n;
    }
}

static void verify_sector(struct bench *b, const u8 *got, u64 sector, const struct flushed *f,
                          size_t cut, const char *how)
{
    const struct history *h = &b->h[sector];
    unsigned oldest = f ? f->at[sector] : 0;
    bool loose = false;
    u8 want[512];
    for (unsigned i = 0; i < h->n && (i <= oldest || h->v[i].from <= cut); i++)
        loose |= i >= oldest && h->v[i].loose;
    for (unsigned i = loose ? 0 : oldest; i < h->n && (i <= oldest || h->v[i].from <= cut); i++) {
        stamp(want, h->v[i].id, sector);
        if (!memcmp(want, got, 512))
            return;
    }
    u32 w[2];
    memcpy(w, got, 8);
    fail_msg("%s after event %zu of %zu: sector %llu has version %u of sector %u, version %u was "
             "flushed",
             how, cut, b->nev, (unsigned long long)sector, w[0], w[1] ^ 0xa5a5a5a5,
             h->v[oldest].id);
}

static void verify(struct bench *b, size_t cut, const char *how)
{
    const struct flushed *f = NULL;
    for (unsigned i = 0; i < b->nfl && b->fl[i].events <= cut; i++)
        f = &b->fl[i];
    struct image_config c = {.file = b->crashed};
    struct image *m = open_image(&c);
    struct qcow2_check r;
    struct err e = {""};
    if (qcow2_check(m, false, &r, &e) || r.errors)
        fail_msg("%s after event %zu of %zu: %llu errors: %s%s", how, cut, b->nev,
                 (unsigned long long)r.errors, r.first, e.msg);
    u8 *all = malloc(SIZE);
    assert_int_equal(image_read(m, 0, all, SIZE), 0);
    for (u64 i = 0; i < SECTORS; i++)
        verify_sector(b, all + i * 512, i, f, cut, how);
    /* And it goes on working. */
    assert_int_equal(image_write(m, 0, all, 64 * KiB), 0);
    free(all);
    assert_int_equal(image_close(m), 0);
}

static void crash(struct bench *b, size_t cut, u64 *torn)
{
    u64 len = b->start_len;
    u8 *img = malloc(len);
    memcpy(img, b->start, len);
    size_t synced = cut;
    while (torn && synced > 0 && b->ev[synced - 1].op != FILE_SYNC)
        synced--;
    for (size_t i = 0; i < cut; i++)
        apply(&img, &len, &b->ev[i], i < synced ? NULL : torn);
    int fd = open(b->crashed, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    assert_int_equal(write(fd, img, len), (ssize_t)len);
    close(fd);
    free(img);
    verify(b, cut, torn ? "power loss" : "killed");
}

static void cleanup(struct bench *b)
{
    for (size_t i = 0; i < b->nev; i++)
        free(b->ev[i].data);
    for (u64 i = 0; i < SECTORS; i++)
        free(b->h[i].v);
    free(b->ev);
    free(b->fl);
    free(b->start);
    scratch_drop(&b->s);
}

static unsigned rounds(void)
{
    const char *n = getenv("CRASHES");
    return n ? (unsigned)atoi(n) : 40;
}

static void run(const struct qcow2_create *how, u64 backing, unsigned tables, u64 seed)
{
    struct bench *b = malloc(sizeof(*b));
    setup(b, how, backing, seed);
    struct file_watch w = {.change = record, .arg = b};
    struct image_config c = {.file = b->file, .watch = &w, .l2_tables = tables};
    struct image *m = open_image(&c);
    for (unsigned i = 0; i < STEPS; i++) {
        change(b, m);
        if (rnd(&b->seed) % 6 == 0)
            flush(b, m);
    }
    assert_int_equal(image_close(m), 0);
    for (unsigned i = 0; i < rounds(); i++) {
        size_t cut = rnd(&b->seed) % (b->nev + 1);
        crash(b, cut, NULL);
        crash(b, cut, &b->seed);
    }
    cleanup(b);
    free(b);
}

static void test_small(void **state)
{
    run(&(struct qcow2_create){.cluster_bits = 9}, 0, 2, 1001);
}

static void test_backed(void **state)
{
    run(&(struct qcow2_create){.cluster_bits = 12}, 500 * 512, 3, 1002);
}

static void test_v2(void **state)
{
    run(&(struct qcow2_create){.cluster_bits = 10, .version = 2}, 400 * 512, 2, 1003);
}

static void test_lazy(void **state)
{
    run(&(struct qcow2_create){.cluster_bits = 9, .lazy = true}, 500 * 512, 4, 1004);
}

static void test_large_clusters(void **state)
{
    run(&(struct qcow2_create){.cluster_bits = 16}, 500 * 512, 3, 1005);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_backed),
        cmocka_unit_test(test_v2),
        cmocka_unit_test(test_lazy),
        cmocka_unit_test(test_large_clusters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
