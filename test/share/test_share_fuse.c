/*
 * The folder by FUSE: a session, inodes and their look-ups, what files do, and no way out.
 */
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "client.h"
#include "share/share_fuse.h"

static struct client client;
static s32 last_error;

/* Sends a request whose body is given like rpc()'s; c->pos is behind the reply's header. 0 or
 * errno. "n" is a string with its NUL. */
static int fuse(struct client *c, u32 opcode, u64 nodeid, const char *fmt, ...)
{
    va_list ap;
    struct fuse_in h = {.opcode = opcode, .unique = 99, .nodeid = nodeid, .uid = 7, .gid = 8};
    struct fuse_out o;
    c->len = sizeof(h);
    va_start(ap, fmt);
    for (; *fmt; fmt++) {
        if (*fmt == 'n') {
            const char *s = va_arg(ap, const char *);
            add_bytes(c, s, strlen(s) + 1);
        } else if (*fmt == 'p') {
            const void *p = va_arg(ap, const void *);
            add_bytes(c, p, va_arg(ap, int));
        } else if (*fmt == 'q') {
            add(c, va_arg(ap, u64), 8);
        } else {
            add(c, va_arg(ap, u32), 4);
        }
    }
    va_end(ap);
    h.len = c->len;
    memcpy(c->req, &h, sizeof(h));
    size_t n = share_fuse_serve(c->s, c->req, c->len, c->reply, sizeof(c->reply));
    if (!n)
        return -1;
    memcpy(&o, c->reply, sizeof(o));
    assert_int_equal(o.len, n);
    assert_int_equal(o.unique, 99);
    if (o.error)
        assert_int_equal(n, sizeof(o));
    c->pos = sizeof(o);
    c->len = n - sizeof(o);
    last_error = -o.error;
    return last_error;
}

static struct fuse_entry_out entry(struct client *c)
{
    struct fuse_entry_out e;
    memcpy(&e, c->reply + c->pos, sizeof(e));
    c->pos += sizeof(e);
    return e;
}

static struct client *begin(struct share_config cfg)
{
    struct client *c = &client;
    start(c, cfg);
    assert_int_equal(fuse(c, FUSE_INIT, 0, "dddd", 7, 36, 65536, 0xffffffff), 0);
    assert_int_equal(take(c, 4), 7);
    return c;
}

#define BEGIN() begin((struct share_config){0})

/* The nodeid, or 0. */
static u64 find9(struct client *c, u64 dir, const char *name)
{
    return fuse(c, FUSE_LOOKUP, dir, "n", name) ? 0 : entry(c).nodeid;
}

static u64 open9(struct client *c, u64 nodeid, u32 flags)
{
    return fuse(c, FUSE_OPEN, nodeid, "dd", flags, 0) ? 0 : take(c, 8);
}

static u64 create9(struct client *c, u64 dir, const char *name, u64 *nodeid)
{
    if (fuse(c, FUSE_CREATE, dir, "ddddn", O_RDWR | O_EXCL, 0640, 0, 0, name))
        return 0;
    *nodeid = entry(c).nodeid;
    return take(c, 8);
}

#define IO_FMT            "qqddqdd"
#define IO(fh, off, size) (u64)(fh), (u64)(off), (u32)(size), 0, (u64)0, 0, 0

static void test_session(void **state)
{
    struct client *c = &client;
    start(c, (struct share_config){0});
    share_reset(c->s);
    assert_int_equal(fuse(c, FUSE_GETATTR, 1, "ddq", 0, 0, (u64)0), EIO);
    assert_int_equal(fuse(c, FUSE_INIT, 0, "dddd", 7, 12, 65536, 0), EIO); /* too old */
    assert_int_equal(fuse(c, FUSE_INIT, 0, "dddd", 8, 0, 65536, 0), 0);    /* too new */
    assert_int_equal(take(c, 4), 7);
    assert_int_equal(fuse(c, FUSE_GETATTR, 1, "ddq", 0, 0, (u64)0), EIO);
    assert_int_equal(fuse(c, FUSE_INIT, 0, "dddd", 7, 36, 65536, BIT(0) | BIT(1)), 0);
    c->pos += 12;
    assert_int_equal(take(c, 4), BIT(0));
    assert_int_equal(fuse(c, FUSE_GETATTR, 1, "ddq", 0, 0, (u64)0), 0);
    assert_int_equal(fuse(c, FUSE_GETATTR, 2, "ddq", 0, 0, (u64)0), EBADF);
    assert_int_equal(fuse(c, FUSE_GETATTR, 1ull << 32 | 1, "ddq", 0, 0, (u64)0), EBADF);
    assert_int_equal(fuse(c, 999, 1, ""), ENOSYS);
    assert_int_equal(fuse(c, FUSE_DESTROY, 0, ""), 0);
    assert_int_equal(fuse(c, FUSE_GETATTR, 1, "ddq", 0, 0, (u64)0), EIO);
    stop(c);
}

static void test_inodes(void **state)
{
    struct client *c = BEGIN();
    u64 a, fh = create9(c, 1, "a", &a);
    assert_true(fh && a);
    assert_int_equal(find9(c, 1, "a"), a);
    assert_int_equal(fuse(c, FUSE_LINK, 1, "qn", a, "b"), 0);
    assert_int_equal(entry(c).nodeid, a); /* one file, one inode */
    assert_int_equal(find9(c, 1, "b"), a);
    assert_int_equal(fuse(c, FUSE_FORGET, a, "q", (u64)3), -1);
    assert_int_equal(fuse(c, FUSE_GETATTR, a, "ddq", 0, 0, (u64)0), 0);
    assert_int_equal(fuse(c, FUSE_BATCH_FORGET, 0, "ddqq", 1, 0, a, (u64)1), -1);
    assert_int_equal(fuse(c, FUSE_GETATTR, a, "ddq", 0, 0, (u64)0), EBADF);
    assert_int_equal(fuse(c, FUSE_FORGET, 1, "q", ~(u64)0), -1); /* the root stays */
    assert_int_equal(fuse(c, FUSE_BATCH_FORGET, 0, "ddq", 0xffffffff, 0, (u64)1), -1);
    assert_int_not_equal(find9(c, 1, "a"), 0);
    stop(c);
}

static void test_io(void **state)
{
    struct client *c = BEGIN();
    u64 a, fh = create9(c, 1, "a", &a);
    assert_int_equal(create9(c, 1, "a", &a), 0);
    assert_int_equal(last_error, EEXIST);
    assert_int_equal(fuse(c, FUSE_WRITE, a, IO_FMT "p", IO(fh, 2, 5), "hello", 5), 0);
    assert_int_equal(take(c, 4), 5);
    assert_int_equal(fuse(c, FUSE_READ, a, IO_FMT, IO(fh, 0, 100)), 0);
    assert_int_equal(c->len, 7);
    assert_memory_equal(c->reply + c->pos, "\0\0hello", 7);
    assert_int_equal(fuse(c, FUSE_READ, a, IO_FMT, IO(a, 0, 100)), EBADF); /* not a handle */
    assert_int_equal(fuse(c, FUSE_FSYNC, a, "qdd", fh, 1, 0), 0);
    assert_int_equal(fuse(c, FUSE_FALLOCATE, a, "qqqdd", fh, (u64)0, (u64)4096, 0, 0), 0);
    assert_int_equal(fuse(c, FUSE_LSEEK, a, "qqdd", fh, (u64)0, SEEK_DATA, 0), 0);
    assert_int_equal(fuse(c, FUSE_LSEEK, a, "qqdd", fh, (u64)0, SEEK_SET, 0), EINVAL);
    struct fuse_setattr_in s = {.valid = 8 | FATTR_FH, .fh = fh, .size = 3};
    assert_int_equal(fuse(c, FUSE_SETATTR, a, "p", &s, (int)sizeof(s)), 0);
    struct fuse_attr_out o;
    memcpy(&o, c->reply + c->pos, sizeof(o));
    assert_int_equal(o.attr.size, 3);
    assert_int_equal(o.attr.mode, S_IFREG | 0640);
    assert_int_equal(fuse(c, FUSE_UNLINK, 1, "n", "a"), 0);
    assert_int_equal(fuse(c, FUSE_READ, a, IO_FMT, IO(fh, 0, 100)), 0);
    assert_int_equal(c->len, 3);
    assert_int_equal(fuse(c, FUSE_RELEASE, a, "qddq", fh, 0, 0, (u64)0), 0);
    assert_int_equal(fuse(c, FUSE_RELEASE, a, "qddq", fh, 0, 0, (u64)0), EBADF);
    assert_int_equal(fuse(c, FUSE_RELEASE, a, "qddq", (u64)1, 0, 0, (u64)0), EBADF);
    assert_int_equal(fuse(c, FUSE_WRITE, a, IO_FMT "p", IO(fh, 0, 500), "short", 5), EIO);
    stop(c);
}

static u32 mode_of(struct client *c, u64 nodeid)
{
    struct fuse_attr_out o;
    assert_int_equal(fuse(c, FUSE_GETATTR, nodeid, "ddq", 0, 0, (u64)0), 0);
    memcpy(&o, c->reply + c->pos, sizeof(o));
    return o.attr.mode & 07777;
}

/* The client sees to set-user-ID itself, but for FUSE_ATOMIC_O_TRUNC. */
static void test_set_user_id(void **state)
{
    struct client *c = BEGIN();
    struct fuse_setattr_in chmod = {.valid = 1, .mode = 06777}, resize = {.valid = 8, .size = 3};
    u64 a, fh = create9(c, 1, "a", &a);
    if (!mapped(c)) {
        stop(c);
        skip();
    }
    assert_int_equal(fuse(c, FUSE_SETATTR, a, "p", &chmod, (int)sizeof(chmod)), 0);
    assert_int_equal(fuse(c, FUSE_SETATTR, a, "p", &resize, (int)sizeof(resize)), 0);
    assert_int_equal(fuse(c, FUSE_WRITE, a, IO_FMT "p", IO(fh, 0, 5), "hello", 5), 0);
    assert_int_equal(mode_of(c, a), 06777);
    assert_int_not_equal(open9(c, a, O_WRONLY), 0);
    assert_int_equal(mode_of(c, a), 06777);
    assert_int_not_equal(open9(c, a, O_WRONLY | O_TRUNC), 0);
    assert_int_equal(mode_of(c, a), 0777);
    stop(c);
}

static void test_names(void **state)
{
    struct client *c = BEGIN();
    struct fuse_entry_out e;
    bool m = getxattr(c->dir, "user.popf.attr", NULL, 0) >= 0 || errno == ENODATA;
    assert_int_equal(fuse(c, FUSE_MKDIR, 1, "ddn", 0750, 0, "d"), 0);
    e = entry(c);
    assert_int_equal(e.attr.mode, S_IFDIR | 0750);
    assert_int_equal(e.attr.uid, m ? 7 : getuid());
    u64 d = e.nodeid;
    assert_int_equal(fuse(c, FUSE_SYMLINK, d, "nn", "l", "../x"), 0);
    u64 l = entry(c).nodeid;
    assert_int_equal(fuse(c, FUSE_READLINK, l, ""), 0);
    assert_int_equal(c->len, 4);
    assert_memory_equal(c->reply + c->pos, "../x", 4);
    assert_int_equal(fuse(c, FUSE_MKNOD, d, "ddddn", S_IFIFO | 0600, 0, 0, 0, "p"), 0);
    assert_int_equal(entry(c).attr.mode, S_IFIFO | 0600);
    u32 dev = 0x12 << 8 | 0x34 | 0x5 << 20;
    if (m) {
        assert_int_equal(fuse(c, FUSE_MKNOD, d, "ddddn", S_IFBLK | 0600, dev, 0, 0, "b"), 0);
        assert_int_equal(entry(c).attr.rdev, dev);
        assert_int_equal(fuse(c, FUSE_UNLINK, d, "n", "b"), 0);
    }
    assert_int_equal(fuse(c, FUSE_RENAME, d, "qnn", (u64)1, "p", "q"), 0);
    assert_int_equal(find9(c, d, "p"), 0);
    assert_int_equal(fuse(c, FUSE_RENAME2, 1, "qddnn", d, 0, 0, "q", "p"), 0);
    assert_int_equal(fuse(c, FUSE_RENAME2, 1, "qddnn", d, 2, 0, "q", "p"), EINVAL);
    assert_int_equal(fuse(c, FUSE_RMDIR, 1, "n", "d"), ENOTEMPTY);
    assert_int_equal(fuse(c, FUSE_STATFS, 1, ""), 0);
    assert_int_equal(c->len, sizeof(struct fuse_kstatfs));
    u64 fh = fuse(c, FUSE_OPENDIR, d, "dd", 0, 0) ? 0 : take(c, 8);
    assert_int_equal(fuse(c, FUSE_READDIR, d, IO_FMT, IO(fh, 0, 4096)), 0);
    assert_int_equal(c->len, 4 * 32); /* ".", "..", "l" and "p" */
    struct fuse_dirent de;
    memcpy(&de, c->reply + c->pos, sizeof(de));
    assert_int_equal(fuse(c, FUSE_READDIR, d, IO_FMT, IO(fh, de.off, 4096)), 0);
    assert_int_equal(c->len, 3 * 32);
    assert_int_equal(fuse(c, FUSE_READDIR, d, IO_FMT, IO(fh, 0, 8)), EINVAL);
    assert_int_equal(fuse(c, FUSE_RELEASEDIR, d, "qddq", fh, 0, 0, (u64)0), 0);
    stop(c);
}

static void test_no_way_out(void **state)
{
    struct client *c = BEGIN();
    assert_int_equal(symlink("..", host(c, "up")), 0);
    u64 up = find9(c, 1, "up");
    assert_int_not_equal(up, 0);
    assert_int_equal(find9(c, up, "shared"), 0);
    assert_int_equal(last_error, ENOTDIR);
    assert_int_equal(open9(c, up, O_RDONLY), 0);
    assert_int_equal(last_error, ELOOP);
    assert_int_equal(fuse(c, FUSE_LOOKUP, 1, "n", ".."), ENOENT);
    assert_int_equal(fuse(c, FUSE_LOOKUP, 1, "n", "up/shared"), EINVAL);
    assert_int_equal(fuse(c, FUSE_LOOKUP, 1, "n", ""), ENOENT);
    assert_int_equal(fuse(c, FUSE_LOOKUP, 1, "p", "abc", 3), EIO); /* without its NUL */
    assert_int_equal(fuse(c, FUSE_MKDIR, 1, "ddn", 0750, 0, "../d"), EINVAL);
    assert_int_equal(fuse(c, FUSE_SYMLINK, 1, "nn", "../d", "x"), EINVAL);
    assert_int_equal(fuse(c, FUSE_RENAME, 1, "qnn", (u64)1, "up", "../up"), EINVAL);
    assert_int_equal(fuse(c, FUSE_UNLINK, 1, "n", "../shared"), EINVAL);
    assert_int_equal(fuse(c, FUSE_RMDIR, 1, "n", ".."), EINVAL);
    stop(c);
}

static void test_xattrs(void **state)
{
    struct client *c = BEGIN();
    if (getxattr(c->dir, "user.popf.attr", NULL, 0) < 0 && errno != ENODATA) {
        stop(c);
        skip();
    }
    u64 a;
    create9(c, 1, "a", &a);
    assert_int_equal(fuse(c, FUSE_SETXATTR, a, "ddnp", 4, 0, "user.c", "blue", 4), 0);
    assert_int_equal(fuse(c, FUSE_GETXATTR, a, "ddn", 0, 0, "user.c"), 0);
    assert_int_equal(take(c, 4), 4);
    assert_int_equal(fuse(c, FUSE_GETXATTR, a, "ddn", 100, 0, "user.c"), 0);
    assert_int_equal(c->len, 4);
    assert_int_equal(fuse(c, FUSE_GETXATTR, a, "ddn", 3, 0, "user.c"), ERANGE);
    assert_int_equal(fuse(c, FUSE_GETXATTR, a, "ddn", 100, 0, "user.popf.attr"), ENODATA);
    assert_int_equal(fuse(c, FUSE_LISTXATTR, a, "dd", 100, 0), 0);
    assert_int_equal(c->len, 7);
    assert_int_equal(fuse(c, FUSE_SETXATTR, a, "ddnp", 4, 0, "user.popf.attr", "blue", 4), EPERM);
    assert_int_equal(fuse(c, FUSE_SETXATTR, a, "ddnp", 400, 0, "user.c", "blue", 4), EIO);
    assert_int_equal(fuse(c, FUSE_REMOVEXATTR, a, "n", "user.popf.attr"), EPERM);
    assert_int_equal(fuse(c, FUSE_REMOVEXATTR, a, "n", "user.c"), 0);
    assert_int_equal(fuse(c, FUSE_REMOVEXATTR, a, "n", "user.c"), ENODATA);
    stop(c);
}

static void test_readonly(void **state)
{
    struct client *c = begin((struct share_config){.readonly = true});
    u64 a;
    int fd = open(host(c, "a"), O_CREAT | O_WRONLY, 0644);
    assert_true(fd >= 0 && !close(fd));
    a = find9(c, 1, "a");
    assert_int_equal(open9(c, a, O_RDWR), 0);
    assert_int_equal(last_error, EROFS);
    u64 fh = open9(c, a, O_RDONLY);
    assert_int_not_equal(fh, 0);
    assert_int_equal(fuse(c, FUSE_WRITE, a, IO_FMT "p", IO(fh, 0, 1), "x", 1), EROFS);
    assert_int_equal(fuse(c, FUSE_FALLOCATE, a, "qqqdd", fh, (u64)0, (u64)4096, 0, 0), EROFS);
    assert_int_equal(fuse(c, FUSE_SETXATTR, a, "ddnp", 4, 0, "user.c", "blue", 4), EROFS);
    assert_int_equal(fuse(c, FUSE_REMOVEXATTR, a, "n", "user.c"), EROFS);
    assert_int_equal(fuse(c, FUSE_MKDIR, 1, "ddn", 0750, 0, "d"), EROFS);
    assert_int_equal(fuse(c, FUSE_LINK, 1, "qn", a, "b"), EROFS);
    assert_int_equal(fuse(c, FUSE_UNLINK, 1, "n", "a"), EROFS);
    assert_int_equal(create9(c, 1, "b", &a), 0);
    assert_int_equal(last_error, EROFS);
    stop(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session),    cmocka_unit_test(test_inodes),
        cmocka_unit_test(test_io),         cmocka_unit_test(test_names),
        cmocka_unit_test(test_no_way_out), cmocka_unit_test(test_xattrs),
        cmocka_unit_test(test_readonly),   cmocka_unit_test(test_set_user_id),
    };
    umask(0);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
