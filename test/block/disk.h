/*
 * disk.h - what the tests of images share: a scratch folder, random numbers, and a model of the
 * disk to compare with.
 */
#ifndef POPF_TEST_DISK_H
#define POPF_TEST_DISK_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/image.h"
#include "block/qcow2.h"

/* --- a folder that goes away --- */

struct scratch {
    char dir[64];
    char path[8][128]; /* results of scratch_path() */
    unsigned next;
};

static inline void scratch_make(struct scratch *s)
{
    memset(s, 0, sizeof(*s));
    /* In memory: what is tested here is the order of syncs, not how long they take. */
    strcpy(s->dir, access("/dev/shm", W_OK) ? "/var/tmp" : "/dev/shm");
    strcat(s->dir, "/popf-test-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
}

static inline const char *scratch_path(struct scratch *s, const char *name)
{
    char *p = s->path[s->next++ % 8];
    assert_true(strlen(name) < 40);
    return strcat(strcat(strcpy(p, s->dir), "/"), name);
}

static inline void scratch_drop(struct scratch *s)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", s->dir);
    assert_int_equal(system(cmd), 0);
}

/* --- random numbers: xorshift64* --- */

static inline u64 rnd(u64 *state)
{
    u64 x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (x * 0x2545f4914f6cdd1dull) >> 16;
}

/* --- images --- */

static inline void make_image(const char *path, const struct qcow2_create *c)
{
    struct file f;
    struct err e = {""};
    unlink(path);
    if (file_open(&f, path, FILE_CREATE, &e) || qcow2_format(&f, c, &e))
        fail_msg("%s", e.msg);
    file_close(&f);
}

static inline void make_raw(const char *path, u64 size)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0644);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

static inline struct image *open_image(const struct image_config *c)
{
    struct err e = {""};
    struct image *m = image_open(c, &e);
    if (!m)
        fail_msg("%s", e.msg);
    return m;
}

static inline void check_image(struct image *m, bool leaks_too)
{
    struct qcow2_check r;
    struct err e = {""};
    if (qcow2_check(m, false, &r, &e))
        fail_msg("%s", e.msg);
    if (r.errors || (leaks_too && r.leaks))
        fail_msg("%llu errors (%s), %llu leaks", (unsigned long long)r.errors, r.first,
                 (unsigned long long)r.leaks);
}

/* A few segments of odd lengths over buf; lengths are multiples of `unit`. */
static inline unsigned cut(struct iovec *v, unsigned max, u8 *buf, u64 len, u64 unit, u64 *seed)
{
    unsigned n = 0;
    while (len) {
        u64 part = n + 1 == max ? len : (1 + rnd(seed) % 8) * unit;
        part = part > len ? len : part;
        v[n++] = (struct iovec){buf, part};
        buf += part;
        len -= part;
    }
    return n;
}

#endif
