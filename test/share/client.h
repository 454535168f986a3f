/*
 * client.h - a 9P2000.L client for tests: one function per message, each returning 0 or the errno
 * of the Rlerror.
 */
#ifndef POPF_TEST_SHARE_CLIENT_H
#define POPF_TEST_SHARE_CLIENT_H

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
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "share/share.h"
#include "share/share_msg.h"

#define MSIZE 65536

struct client {
    struct share *s;
    u8 req[MSIZE + 64], reply[MSIZE + 64];
    size_t len, pos; /* of the request being built; in the reply being read */
    char dir[64];    /* the shared folder, in `top` */
    char top[48];
};

/* --- requests: b, w, d, q are 1, 2, 4, 8 bytes; s is a string; p a pointer and an int length ---
 */

static inline void add(struct client *c, u64 v, unsigned size)
{
    for (unsigned i = 0; i < size; i++, v >>= 8)
        c->req[c->len++] = v;
}

static inline void add_bytes(struct client *c, const void *p, size_t n)
{
    memcpy(c->req + c->len, p, n);
    c->len += n;
}

static inline void add_args(struct client *c, const char *fmt, va_list ap)
{
    for (; *fmt; fmt++) {
        if (*fmt == 's') {
            const char *s = va_arg(ap, const char *);
            add(c, strlen(s), 2);
            add_bytes(c, s, strlen(s));
        } else if (*fmt == 'p') {
            const void *p = va_arg(ap, const void *);
            add_bytes(c, p, va_arg(ap, int));
        } else if (*fmt == 'q') {
            add(c, va_arg(ap, u64), 8);
        } else {
            add(c, va_arg(ap, u32), *fmt == 'd' ? 4 : *fmt == 'w' ? 2 : 1);
        }
    }
}

static inline u64 take(struct client *c, unsigned size)
{
    u64 v = 0;
    for (unsigned i = 0; i < size; i++)
        v |= (u64)c->reply[c->pos++] << (8 * i);
    return v;
}

static inline int rpc(struct client *c, u8 type, const char *fmt, ...)
{
    va_list ap;
    c->len = 4;
    add(c, type, 1);
    add(c, 0x1234, 2);
    va_start(ap, fmt);
    add_args(c, fmt, ap);
    va_end(ap);
    size_t len = c->len;
    c->len = 0;
    add(c, len, 4);
    size_t n = share_serve(c->s, c->req, len, c->reply, sizeof(c->reply));
    c->pos = 0;
    assert_int_equal(take(c, 4), n);
    u8 got = take(c, 1);
    assert_int_equal(take(c, 2), 0x1234);
    if (got == TLERROR + 1)
        return take(c, 4);
    assert_int_equal(got, type + 1);
    return 0;
}

/* --- messages --- */

static inline int walk1(struct client *c, u32 fid, u32 newfid, const char *name)
{
    return rpc(c, TWALK, "ddws", fid, newfid, 1, name);
}

/* A path of names with "/" between them. ENOENT too if only a part of it was walked. */
static inline int walk(struct client *c, u32 fid, u32 newfid, const char *path)
{
    char copy[1024], *save, *name;
    u8 names[1024];
    unsigned count = 0, n = 0;
    snprintf(copy, sizeof(copy), "%s", path);
    for (name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
        names[n++] = strlen(name);
        names[n++] = strlen(name) >> 8;
        memcpy(names + n, name, strlen(name));
        n += strlen(name);
        count++;
    }
    int err = rpc(c, TWALK, "ddwp", fid, newfid, count, names, (int)n);
    return err ? err : take(c, 2) == count ? 0 : ENOENT;
}

static inline int clunk(struct client *c, u32 fid)
{
    return rpc(c, TCLUNK, "d", fid);
}

static inline int lopen(struct client *c, u32 fid, u32 flags)
{
    return rpc(c, TLOPEN, "dd", fid, flags);
}

static inline int lcreate(struct client *c, u32 fid, const char *name, u32 flags, u32 mode)
{
    return rpc(c, TLCREATE, "dsddd", fid, name, flags, mode, 0);
}

/* Makes a file in the root, with contents. */
static inline int put_file(struct client *c, const char *name, const char *text, u32 mode)
{
    int err = rpc(c, TWALK, "ddw", 0, 900, 0);
    if (!err)
        err = lcreate(c, 900, name, O_RDWR | O_EXCL, mode);
    if (!err)
        err = rpc(c, TWRITE, "dqdp", 900, (u64)0, (u32)strlen(text), text, (int)strlen(text));
    int ignored = clunk(c, 900);
    return err ? err : ignored;
}

struct attrs {
    u32 mode, uid, gid;
    u64 nlink, rdev, size, ino;
    u8 qtype;
};

static inline int getattr(struct client *c, u32 fid, struct attrs *a)
{
    int err = rpc(c, TGETATTR, "dq", fid, (u64)0x7ff);
    if (err)
        return err;
    take(c, 8);
    a->qtype = take(c, 1);
    take(c, 4);
    a->ino = take(c, 8);
    a->mode = take(c, 4);
    a->uid = take(c, 4);
    a->gid = take(c, 4);
    a->nlink = take(c, 8);
    a->rdev = take(c, 8);
    a->size = take(c, 8);
    return 0;
}

/* lstat(), as a guest's kernel does it. */
static inline int stat_path(struct client *c, const char *path, struct attrs *a)
{
    int err = walk(c, 0, 901, path);
    if (err)
        return err;
    err = getattr(c, 901, a);
    clunk(c, 901);
    return err;
}

static inline int setattr(struct client *c, u32 fid, u32 valid, u32 mode, u32 uid, u32 gid,
                          u64 size)
{
    return rpc(c, TSETATTR, "dddddqqqqq", fid, valid, mode, uid, gid, size, (u64)0, (u64)0, (u64)0,
               (u64)0);
}

static inline int mkdir9(struct client *c, u32 fid, const char *name, u32 mode)
{
    return rpc(c, TMKDIR, "dsdd", fid, name, mode, 0);
}

static inline int renameat9(struct client *c, u32 a, const char *from, u32 b, const char *to)
{
    return rpc(c, TRENAMEAT, "dsds", a, from, b, to);
}

static inline int unlinkat9(struct client *c, u32 fid, const char *name, u32 flags)
{
    return rpc(c, TUNLINKAT, "dsd", fid, name, flags);
}

/* Reads up to 255 bytes at `offset` into c->reply; text is terminated. The length, or -errno. */
static inline int read9(struct client *c, u32 fid, u64 offset, char text[256])
{
    int err = rpc(c, TREAD, "dqd", fid, offset, 255);
    if (err)
        return -err;
    u32 n = take(c, 4);
    assert_true(n <= 255);
    memcpy(text, c->reply + c->pos, n);
    text[n] = 0;
    return n;
}

/* --- a folder of its own for each test --- */

static inline void start(struct client *c, struct share_config cfg)
{
    struct err e;
    snprintf(c->top, sizeof(c->top), "/var/tmp/popf-share.XXXXXX");
    assert_non_null(mkdtemp(c->top));
    snprintf(c->dir, sizeof(c->dir), "%s/shared", c->top);
    assert_int_equal(mkdir(c->dir, 0755), 0);
    cfg.path = c->dir;
    c->s = share_open(&cfg, &e);
    assert_non_null(c->s);
    assert_int_equal(rpc(c, TVERSION, "ds", MSIZE, "9P2000.L"), 0);
    assert_int_equal(rpc(c, TATTACH, "ddssd", 0, SHARE_NOFID, "", "", 1234), 0);
}

static inline void stop(struct client *c)
{
    char cmd[128];
    share_close(c->s);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", c->top);
    assert_int_equal(system(cmd), 0);
}

/* Are attributes kept in user.popf.attr here? */
static inline bool mapped(struct client *c)
{
    return getxattr(c->dir, "user.popf.attr", NULL, 0) >= 0 || errno == ENODATA;
}

/* A path on the host: `name` in the shared folder. Good until the next call but one. */
static inline const char *host(struct client *c, const char *name)
{
    static char path[2][512];
    static unsigned turn;
    char *p = path[turn++ % 2];
    snprintf(p, sizeof(path[0]), "%s/%s", c->dir, name);
    return p;
}

#endif
