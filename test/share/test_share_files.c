/*
 * What files do, through the server: creating, reading, linking, renaming, removing, and attributes
 * as an ordinary user has them.
 */
#include "client.h"

#include <sys/sysmacros.h>
#include <sys/xattr.h>

static struct client client;

static struct client *begin(struct share_config cfg)
{
    start(&client, cfg);
    return &client;
}

#define BEGIN() begin((struct share_config){0})

static void test_version(void **state)
{
    struct client *c = BEGIN();
    assert_int_equal(rpc(c, TVERSION, "ds", 8192, "9P2000.L"), 0);
    assert_int_equal(take(c, 4), 8192);
    assert_int_equal(take(c, 2), 8);
    assert_memory_equal(c->reply + c->pos, "9P2000.L", 8);
    assert_int_equal(clunk(c, 0), EBADF); /* the session began anew */
    assert_int_equal(rpc(c, TVERSION, "ds", 0x7fffffff, "9P2000.L"), 0);
    assert_int_equal(take(c, 4), SHARE_MSIZE_MAX);
    assert_int_equal(rpc(c, TVERSION, "ds", 100, "9P2000.L"), EMSGSIZE);
    assert_int_equal(rpc(c, TVERSION, "ds", 8192, "9P2000"), 0);
    c->pos += 6;
    assert_memory_equal(c->reply + c->pos, "unknown", 7);
    assert_int_equal(rpc(c, TATTACH, "ddssd", 0, SHARE_NOFID, "", "", 0), EPROTO);
    stop(c);
}

static void test_attach(void **state)
{
    struct client *c = BEGIN();
    assert_int_equal(rpc(c, TATTACH, "ddssd", 0, SHARE_NOFID, "", "", 0), EBADF); /* in use */
    assert_int_equal(rpc(c, TATTACH, "ddssd", 1, 7, "", "", 0), EINVAL);
    assert_int_equal(rpc(c, TATTACH, "ddssd", 1, SHARE_NOFID, "me", "/", 0), 0);
    assert_int_equal(take(c, 1), 0x80);
    assert_int_equal(rpc(c, TATTACH, "ddssd", 2, SHARE_NOFID, "", "/etc", 0), ENOENT);
    assert_int_equal(rpc(c, TAUTH, "dssd", 2, "", "", 0), EOPNOTSUPP);
    assert_int_equal(rpc(c, TFLUSH, "w", 9), 0);
    stop(c);
}

static void test_read_write(void **state)
{
    struct client *c = BEGIN();
    char text[256];
    assert_int_equal(put_file(c, "a", "hello", 0644), 0);
    assert_int_equal(put_file(c, "a", "again", 0644), EEXIST);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(read9(c, 1, 0, text), -EBADF); /* not opened */
    assert_int_equal(lopen(c, 1, O_RDWR), 0);
    assert_int_equal(lopen(c, 1, O_RDWR), EBUSY);
    assert_int_equal(read9(c, 1, 1, text), 4);
    assert_string_equal(text, "ello");
    assert_int_equal(read9(c, 1, 5, text), 0);
    assert_int_equal(rpc(c, TWRITE, "dqdp", 1, (u64)10, 3, "end", 3), 0);
    assert_int_equal(take(c, 4), 3);
    assert_int_equal(read9(c, 1, 0, text), 13);
    assert_memory_equal(text, "hello\0\0\0\0\0end", 13);
    assert_int_equal(rpc(c, TFSYNC, "dd", 1, 0), 0);
    assert_int_equal(rpc(c, TFSYNC, "dd", 1, 1), 0);
    assert_int_equal(rpc(c, TREAD, "dqd", 1, ~(u64)0, 10), EINVAL);
    assert_int_equal(rpc(c, TWRITE, "dqdp", 1, ~(u64)0, 3, "end", 3), EFBIG);
    assert_int_equal(setattr(c, 1, 8, 0, 0, 0, 2), 0);
    assert_int_equal(read9(c, 1, 0, text), 2);
    assert_int_equal(clunk(c, 1), 0);
    assert_int_equal(clunk(c, 1), EBADF);
    stop(c);
}

static void test_open(void **state)
{
    struct client *c = BEGIN();
    char text[256];
    assert_int_equal(put_file(c, "a", "hello", 0644), 0);
    assert_int_equal(mkfifo(host(c, "fifo"), 0644), 0);
    assert_int_equal(walk1(c, 0, 1, "fifo"), 0);
    assert_int_equal(lopen(c, 1, O_RDONLY), ENXIO); /* and does not wait for a writer */
    assert_int_equal(rpc(c, TWALK, "ddw", 0, 2, 0), 0);
    assert_int_equal(lcreate(c, 2, "fifo", O_RDWR, 0644), ENXIO);
    assert_int_equal(lcreate(c, 2, "a", O_RDWR, 0644), 0); /* without O_EXCL */
    assert_int_equal(read9(c, 2, 0, text), 5);
    assert_int_equal(walk1(c, 0, 3, "a"), 0);
    assert_int_equal(lopen(c, 3, O_WRONLY | O_TRUNC), 0);
    assert_int_equal(read9(c, 2, 0, text), 0);
    assert_int_equal(read9(c, 3, 0, text), -EBADF); /* write-only */
    assert_int_equal(rpc(c, TWALK, "ddw", 0, 4, 0), 0);
    assert_int_equal(lopen(c, 4, O_RDWR), EISDIR);
    assert_int_equal(lopen(c, 4, O_RDONLY), 0);
    assert_int_equal(read9(c, 4, 0, text), -EISDIR);
    assert_int_equal(lcreate(c, 4, "x", O_RDWR, 0644), EBUSY);
    stop(c);
}

static void test_modes(void **state)
{
    struct client *c = BEGIN();
    struct attrs a;
    struct stat st;
    bool m = mapped(c);
    assert_int_equal(put_file(c, "a", "", 04751), 0);
    assert_int_equal(stat_path(c, "a", &a), 0);
    assert_int_equal(a.mode, S_IFREG | (m ? 04751 : 0751));
    assert_int_equal(stat(host(c, "a"), &st), 0);
    assert_int_equal(st.st_mode & 07000, 0); /* nothing set-user-ID on the host */
    assert_int_equal(a.uid, m ? 1234 : getuid());
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(setattr(c, 1, 1, 0, 0, 0, 0), 0);
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(a.mode, S_IFREG);
    if (m) { /* the owner on the host can still use it, and so can the guest's root */
        assert_int_equal(stat(host(c, "a"), &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(lopen(c, 1, O_RDWR), 0);
        assert_int_equal(setattr(c, 1, 6, 0, 5, 6, 0), 0);
        assert_int_equal(getattr(c, 1, &a), 0);
        assert_int_equal(a.uid, 5);
        assert_int_equal(a.gid, 6);
        assert_int_equal(a.mode, S_IFREG);
        assert_int_equal(stat(host(c, "a"), &st), 0);
        assert_int_equal(st.st_uid, getuid());
    }
    stop(c);
}

/* A file that the host made, read-only even for its owner. */
static void test_host_file(void **state)
{
    struct client *c = BEGIN();
    struct attrs a;
    int fd = open(host(c, "ro"), O_CREAT | O_WRONLY, 0444);
    assert_true(fd >= 0 && !close(fd));
    assert_int_equal(stat_path(c, "ro", &a), 0);
    assert_int_equal(a.mode, S_IFREG | 0444);
    assert_int_equal(a.uid, getuid());
    if (mapped(c)) {
        assert_int_equal(walk1(c, 0, 1, "ro"), 0);
        assert_int_equal(setattr(c, 1, 2, 0, 77, 0, 0), 0);
        assert_int_equal(stat_path(c, "ro", &a), 0);
        assert_int_equal(a.mode, S_IFREG | 0444);
        assert_int_equal(a.uid, 77);
    }
    stop(c);
}

static void test_mknod(void **state)
{
    struct client *c = BEGIN();
    struct attrs a;
    struct stat st;
    bool m = mapped(c);
    assert_int_equal(rpc(c, TMKNOD, "dsdddd", 0, "p", S_IFIFO | 0640, 0, 0, 0), 0);
    assert_int_equal(stat_path(c, "p", &a), 0);
    assert_int_equal(a.mode, S_IFIFO | 0640);
    assert_int_equal(rpc(c, TMKNOD, "dsdddd", 0, "s", S_IFSOCK | 0600, 0, 0, 0), 0);
    assert_int_equal(stat_path(c, "s", &a), 0);
    assert_int_equal(a.mode, S_IFSOCK | 0600);
    assert_int_equal(rpc(c, TMKNOD, "dsdddd", 0, "r", S_IFREG | 0600, 0, 0, 0), 0);
    assert_int_equal(rpc(c, TMKNOD, "dsdddd", 0, "x", S_IFDIR | 0600, 0, 0, 0), EINVAL);
    assert_int_equal(rpc(c, TMKNOD, "dsdddd", 0, "d", S_IFBLK | 0600, 8, 1, 0), m ? 0 : EPERM);
    if (m) {
        assert_int_equal(stat_path(c, "d", &a), 0);
        assert_int_equal(a.mode, S_IFBLK | 0600);
        assert_int_equal(a.rdev, makedev(8, 1));
        assert_int_equal(stat(host(c, "d"), &st), 0);
        assert_true(S_ISREG(st.st_mode));
        assert_int_equal(walk1(c, 0, 1, "d"), 0); /* chmod leaves the type alone */
        assert_int_equal(setattr(c, 1, 1, 0666, 0, 0, 0), 0);
        assert_int_equal(getattr(c, 1, &a), 0);
        assert_int_equal(a.mode, S_IFBLK | 0666);
    }
    stop(c);
}

/* Where attributes are the host's, no device is made, not even by root. */
static void test_passthrough(void **state)
{
    struct client *c = begin((struct share_config){.passthrough = true});
    struct attrs a;
    struct stat st;
    assert_int_equal(rpc(c, TMKNOD, "dsdddd", 0, "d", S_IFCHR | 0600, 1, 3, 0), EPERM);
    assert_int_equal(rpc(c, TMKNOD, "dsdddd", 0, "p", S_IFIFO | 0600, 0, 0, 0), 0);
    assert_int_equal(stat(host(c, "p"), &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_int_equal(put_file(c, "a", "", 06777), 0);
    assert_int_equal(stat_path(c, "a", &a), 0);
    assert_int_equal(a.mode, S_IFREG | 0777);
    assert_int_equal(getxattr(host(c, "a"), "user.popf.attr", NULL, 0), -1);
    stop(c);
}

static void test_links(void **state)
{
    struct client *c = BEGIN();
    struct attrs a, b;
    assert_int_equal(put_file(c, "a", "x", 0644), 0);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(rpc(c, TLINK, "dds", 0, 1, "b"), 0);
    assert_int_equal(rpc(c, TLINK, "dds", 0, 1, "b"), EEXIST);
    assert_int_equal(stat_path(c, "b", &b), 0);
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(a.ino, b.ino);
    assert_int_equal(a.nlink, 2);
    assert_int_equal(renameat9(c, 0, "a", 0, "b"), 0); /* does nothing: the same file */
    assert_int_equal(stat_path(c, "a", &a), 0);
    assert_int_equal(unlinkat9(c, 0, "a", 0), 0);
    assert_int_equal(stat_path(c, "b", &b), 0);
    assert_int_equal(b.nlink, 1);
    assert_int_equal(mkdir9(c, 0, "d", 0755), 0);
    assert_int_equal(walk1(c, 0, 2, "d"), 0);
    assert_int_equal(rpc(c, TLINK, "dds", 0, 2, "d2"), EPERM);
    stop(c);
}

static void test_symlinks(void **state)
{
    struct client *c = BEGIN();
    struct attrs a;
    assert_int_equal(rpc(c, TSYMLINK, "dssd", 0, "l", "/etc/passwd", 0), 0);
    assert_int_equal(take(c, 1), 0x02);
    assert_int_equal(stat_path(c, "l", &a), 0);
    assert_true(S_ISLNK(a.mode));
    assert_int_equal(walk1(c, 0, 1, "l"), 0);
    assert_int_equal(rpc(c, TREADLINK, "d", 1), 0);
    assert_int_equal(take(c, 2), 11);
    assert_memory_equal(c->reply + c->pos, "/etc/passwd", 11);
    assert_int_equal(rpc(c, TLINK, "dds", 0, 1, "l2"), 0); /* the link is linked, not the file */
    assert_int_equal(stat_path(c, "l2", &a), 0);
    assert_true(S_ISLNK(a.mode));
    assert_int_equal(rpc(c, TREADLINK, "d", 0), EINVAL);
    assert_int_equal(rpc(c, TSYMLINK, "dssd", 0, "l", "x", 0), EEXIST);
    assert_int_equal(rpc(c, TSYMLINK, "dssd", 0, "e", "", 0), ENOENT);
    stop(c);
}

static void test_rename_over(void **state)
{
    struct client *c = BEGIN();
    char text[256];
    struct attrs a;
    assert_int_equal(put_file(c, "a", "new", 0644), 0);
    assert_int_equal(put_file(c, "b", "old", 0644), 0);
    assert_int_equal(walk1(c, 0, 1, "b"), 0);
    assert_int_equal(lopen(c, 1, O_RDONLY), 0);
    assert_int_equal(renameat9(c, 0, "a", 0, "b"), 0);
    assert_int_equal(read9(c, 1, 0, text), 3);
    assert_string_equal(text, "old"); /* open files outlive their names */
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(a.nlink, 0);
    assert_int_equal(stat_path(c, "a", &a), ENOENT);
    assert_int_equal(walk1(c, 0, 2, "b"), 0);
    assert_int_equal(lopen(c, 2, O_RDONLY), 0);
    assert_int_equal(read9(c, 2, 0, text), 3);
    assert_string_equal(text, "new");
    assert_int_equal(mkdir9(c, 0, "d", 0755), 0);
    assert_int_equal(renameat9(c, 0, "b", 0, "d"), EISDIR);
    assert_int_equal(renameat9(c, 0, "d", 0, "b"), ENOTDIR);
    assert_int_equal(renameat9(c, 0, "nothing", 0, "b"), ENOENT);
    stop(c);
}

/* Trename and Tremove name a file by its fid, wherever it is by now. */
static void test_rename_by_fid(void **state)
{
    struct client *c = BEGIN();
    struct attrs a;
    assert_int_equal(mkdir9(c, 0, "d", 0755), 0);
    assert_int_equal(mkdir9(c, 0, "e", 0755), 0);
    assert_int_equal(put_file(c, "a", "x", 0644), 0);
    assert_int_equal(walk1(c, 0, 1, "d"), 0);
    assert_int_equal(walk1(c, 0, 2, "a"), 0);
    assert_int_equal(rpc(c, TRENAME, "dds", 2, 1, "b"), 0);
    assert_int_equal(stat_path(c, "d/b", &a), 0);
    assert_int_equal(renameat9(c, 0, "d", 0, "f"), 0); /* its directory moves */
    assert_int_equal(rpc(c, TRENAME, "dds", 2, 1, "c"), 0);
    assert_int_equal(stat_path(c, "f/c", &a), 0);
    assert_int_equal(rpc(c, TRENAME, "dds", 1, 1, "c"), EINVAL); /* into itself */
    assert_int_equal(rename(host(c, "f/c"), c->dir), -1);
    assert_int_equal(rpc(c, TREMOVE, "d", 2), 0);
    assert_int_equal(stat_path(c, "f/c", &a), ENOENT);
    assert_int_equal(clunk(c, 2), EBADF);
    assert_int_equal(walk1(c, 0, 3, "e"), 0);
    assert_int_equal(rpc(c, TREMOVE, "d", 3), 0);
    assert_int_equal(rpc(c, TREMOVE, "d", 0), EBUSY); /* the folder itself */
    stop(c);
}

static void test_unlink(void **state)
{
    struct client *c = BEGIN();
    char text[256];
    assert_int_equal(put_file(c, "a", "hello", 0644), 0);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(walk1(c, 0, 2, "a"), 0);
    assert_int_equal(lopen(c, 1, O_RDWR), 0);
    assert_int_equal(unlinkat9(c, 0, "a", 0x200), ENOTDIR);
    assert_int_equal(unlinkat9(c, 0, "a", 0), 0);
    assert_int_equal(unlinkat9(c, 0, "a", 0), ENOENT);
    assert_int_equal(read9(c, 1, 0, text), 5);
    assert_int_equal(setattr(c, 2, 1 | 8, 0600, 0, 0, 3), 0); /* by a fid that is not open */
    assert_int_equal(lopen(c, 2, O_RDONLY), 0);
    assert_int_equal(read9(c, 2, 0, text), 3);
    assert_int_equal(rpc(c, TREMOVE, "d", 2), ENOENT);
    assert_int_equal(mkdir9(c, 0, "d", 0755), 0);
    assert_int_equal(walk1(c, 0, 3, "d"), 0);
    assert_int_equal(mkdir9(c, 3, "e", 0755), 0);
    assert_int_equal(unlinkat9(c, 0, "d", 0), EISDIR);
    assert_int_equal(unlinkat9(c, 0, "d", 0x200), ENOTEMPTY);
    assert_int_equal(unlinkat9(c, 3, "e", 0x200), 0);
    assert_int_equal(unlinkat9(c, 0, "d", 0x200), 0);
    assert_int_equal(mkdir9(c, 3, "e", 0755), ENOENT); /* a directory that is gone */
    assert_int_equal(unlinkat9(c, 0, "d", 1), EINVAL);
    stop(c);
}

static void test_long_names(void **state)
{
    struct client *c = BEGIN();
    char name[300];
    struct attrs a;
    memset(name, 'n', sizeof(name));
    name[256] = 0;
    assert_int_equal(put_file(c, name, "", 0644), ENAMETOOLONG);
    assert_int_equal(mkdir9(c, 0, name, 0755), ENAMETOOLONG);
    assert_int_equal(stat_path(c, name, &a), ENAMETOOLONG);
    name[255] = 0;
    assert_int_equal(put_file(c, name, "", 0644), 0);
    assert_int_equal(stat_path(c, name, &a), 0);
    stop(c);
}

/* Counts what Treaddir gives, with a small count so that many are needed. */
static unsigned count_entries(struct client *c, u32 fid, u32 count, u64 *sum)
{
    u64 offset = 0;
    unsigned total = 0;
    *sum = 0;
    for (;;) {
        assert_int_equal(rpc(c, TREADDIR, "dqd", fid, offset, count), 0);
        size_t end = take(c, 4);
        end += c->pos;
        if (c->pos == end)
            return total;
        while (c->pos < end) {
            c->pos += 13;
            offset = take(c, 8);
            take(c, 1);
            unsigned len = take(c, 2);
            for (unsigned n = 0; len; len--, c->pos++) {
                n = 10 * n + (c->reply[c->pos] - '0');
                if (c->reply[c->pos] == 'f')
                    n = 0;
                *sum += len == 1 && c->reply[c->pos] != '.' ? n : 0;
            }
            total++;
        }
        assert_int_equal(c->pos, end);
    }
}

static void test_readdir(void **state)
{
    struct client *c = BEGIN();
    char name[32];
    u64 sum;
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        assert_int_equal(put_file(c, name, "", 0644), 0);
    }
    assert_int_equal(rpc(c, TWALK, "ddw", 0, 1, 0), 0);
    assert_int_equal(rpc(c, TREADDIR, "dqd", 1, (u64)0, 500), EBADF); /* not opened */
    assert_int_equal(lopen(c, 1, O_RDONLY), 0);
    assert_int_equal(count_entries(c, 1, 500, &sum), 302);
    assert_int_equal(sum, 299 * 300 / 2);
    assert_int_equal(count_entries(c, 1, MSIZE, &sum), 302);
    assert_int_equal(sum, 299 * 300 / 2);
    assert_int_equal(rpc(c, TREADDIR, "dqd", 1, (u64)0, 20), EINVAL); /* no room for one */
    assert_int_equal(rpc(c, TREADDIR, "dqd", 1, ~(u64)0, 500), EINVAL);
    stop(c);
}

static void test_xattrs(void **state)
{
    struct client *c = BEGIN();
    if (!mapped(c)) {
        stop(c);
        skip();
    }
    assert_int_equal(put_file(c, "a", "", 0640), 0);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(walk1(c, 0, 2, "a"), 0);
    assert_int_equal(rpc(c, TXATTRCREATE, "dsqd", 2, "user.colour", (u64)4, 0), 0);
    assert_int_equal(rpc(c, TWRITE, "dqdp", 2, (u64)0, 2, "bl", 2), 0);
    assert_int_equal(rpc(c, TWRITE, "dqdp", 2, (u64)2, 3, "uex", 3), ENOSPC);
    assert_int_equal(rpc(c, TWRITE, "dqdp", 2, (u64)2, 2, "ue", 2), 0);
    assert_int_equal(clunk(c, 2), 0);
    assert_int_equal(rpc(c, TXATTRWALK, "dds", 1, 3, "user.colour"), 0);
    assert_int_equal(take(c, 8), 4);
    assert_int_equal(rpc(c, TREAD, "dqd", 3, (u64)1, 100), 0);
    assert_int_equal(take(c, 4), 3);
    assert_memory_equal(c->reply + c->pos, "lue", 3);
    assert_int_equal(rpc(c, TREAD, "dqd", 3, ~(u64)0, 100), 0);
    assert_int_equal(take(c, 4), 0);
    assert_int_equal(rpc(c, TXATTRWALK, "dds", 1, 3, "user.colour"), EBADF); /* in use */
    assert_int_equal(rpc(c, TXATTRWALK, "dds", 3, 4, "user.colour"), EINVAL);
    assert_int_equal(clunk(c, 3), 0);
    /* The list has what the guest set, and not what the server did. */
    assert_int_equal(rpc(c, TXATTRWALK, "dds", 1, 3, ""), 0);
    assert_int_equal(take(c, 8), sizeof("user.colour"));
    assert_int_equal(clunk(c, 3), 0);
    assert_int_equal(rpc(c, TXATTRWALK, "dds", 1, 3, "user.popf.attr"), ENODATA);
    assert_int_equal(rpc(c, TXATTRCREATE, "dsqd", 1, "user.popf.attr", (u64)4, 0), EPERM);
    assert_int_equal(rpc(c, TXATTRWALK, "dds", 1, 3, "trusted.x"), EOPNOTSUPP);
    assert_int_equal(rpc(c, TXATTRCREATE, "dsqd", 1, "security.x", (u64)4, 0), EOPNOTSUPP);
    /* Removing is creating with nothing, in place of what is there. */
    assert_int_equal(rpc(c, TXATTRCREATE, "dsqd", 1, "user.colour", (u64)0, 2), 0);
    assert_int_equal(clunk(c, 1), 0);
    assert_int_equal(getxattr(host(c, "a"), "user.colour", NULL, 0), -1);
    stop(c);
}

static int lock9(struct client *c, u32 fid, u8 type, u64 start, u64 len, u32 proc)
{
    assert_int_equal(rpc(c, TLOCK, "dbdqqds", fid, type, 0, start, len, proc, "guest"), 0);
    return take(c, 1);
}

static void test_locks(void **state)
{
    struct client *c = BEGIN();
    assert_int_equal(put_file(c, "a", "", 0644), 0);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(walk1(c, 0, 2, "a"), 0);
    assert_int_equal(lock9(c, 1, 1, 0, 100, 7), 0);
    assert_int_equal(lock9(c, 2, 0, 50, 10, 8), 1); /* blocked */
    assert_int_equal(lock9(c, 2, 0, 50, 10, 7), 0); /* the same process, by another fid */
    assert_int_equal(lock9(c, 2, 0, 50, 10, 8), 0); /* readers share */
    assert_int_equal(lock9(c, 2, 1, 49, 1, 8), 1);
    assert_int_equal(lock9(c, 2, 1, 60, 0, 8), 1);
    assert_int_equal(lock9(c, 1, 2, 60, 0, 7), 0); /* from 60 to the end: free */
    assert_int_equal(lock9(c, 2, 1, 60, 0, 8), 0);
    assert_int_equal(rpc(c, TGETLOCK, "dbqqds", 1, 1, (u64)0, (u64)0, 9, "guest"), 0);
    assert_int_not_equal(take(c, 1), 2);
    clunk(c, 1);
    clunk(c, 2);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(rpc(c, TGETLOCK, "dbqqds", 1, 1, (u64)0, (u64)0, 9, "guest"), 0);
    assert_int_equal(take(c, 1), 2);
    assert_int_equal(rpc(c, TLOCK, "dbdqqds", 1, 3, 0, (u64)0, (u64)0, 9, "guest"), EINVAL);
    stop(c);
}

/* An owner with thousands of little locks gets no more than there is room for. */
static void test_locks_full(void **state)
{
    struct client *c = BEGIN();
    int status = 0;
    unsigned n;
    assert_int_equal(put_file(c, "a", "", 0644), 0);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(lock9(c, 1, 1, 0, 0, 7), 0);
    for (n = 0; n < 5000 && !status; n++)
        status = lock9(c, 1, 2, 2 * n + 1, 1, 7);
    assert_int_equal(status, 2);
    assert_true(n > 4000 && n < 4200);
    assert_int_equal(lock9(c, 1, 2, 0, 0, 7), 0);
    assert_int_equal(lock9(c, 1, 1, 0, 0, 7), 0);
    stop(c);
}

static void test_readonly(void **state)
{
    struct client *c = begin((struct share_config){.readonly = true});
    char text[256];
    int fd = open(host(c, "a"), O_CREAT | O_WRONLY, 0644);
    assert_int_equal(write(fd, "hello", 5), 5);
    close(fd);
    assert_int_equal(put_file(c, "b", "", 0644), EROFS);
    assert_int_equal(mkdir9(c, 0, "d", 0755), EROFS);
    assert_int_equal(renameat9(c, 0, "a", 0, "b"), EROFS);
    assert_int_equal(unlinkat9(c, 0, "a", 0), EROFS);
    assert_int_equal(rpc(c, TSYMLINK, "dssd", 0, "l", "x", 0), EROFS);
    assert_int_equal(rpc(c, TMKNOD, "dsdddd", 0, "p", S_IFIFO | 0640, 0, 0, 0), EROFS);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(setattr(c, 1, 1, 0600, 0, 0, 0), EROFS);
    assert_int_equal(rpc(c, TLINK, "dds", 0, 1, "b"), EROFS);
    assert_int_equal(rpc(c, TRENAME, "dds", 1, 0, "b"), EROFS);
    assert_int_equal(rpc(c, TXATTRCREATE, "dsqd", 1, "user.x", (u64)4, 0), EROFS);
    assert_int_equal(lopen(c, 1, O_RDWR), EROFS);
    assert_int_equal(lopen(c, 1, O_RDONLY | O_TRUNC), EROFS);
    assert_int_equal(lopen(c, 1, O_RDONLY), 0);
    assert_int_equal(rpc(c, TWRITE, "dqdp", 1, (u64)0, 1, "x", 1), EROFS);
    assert_int_equal(read9(c, 1, 0, text), 5);
    assert_int_equal(rpc(c, TREMOVE, "d", 1), EROFS);
    assert_int_equal(access(host(c, "a"), F_OK), 0);
    stop(c);
}

static void test_statfs(void **state)
{
    struct client *c = BEGIN();
    assert_int_equal(rpc(c, TSTATFS, "d", 0), 0);
    take(c, 4);
    assert_true(take(c, 4) >= 512);
    assert_true(take(c, 8) > 0);
    assert_int_equal(rpc(c, TSTATFS, "d", 55), EBADF);
    stop(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version),     cmocka_unit_test(test_attach),
        cmocka_unit_test(test_read_write),  cmocka_unit_test(test_open),
        cmocka_unit_test(test_modes),       cmocka_unit_test(test_host_file),
        cmocka_unit_test(test_mknod),       cmocka_unit_test(test_passthrough),
        cmocka_unit_test(test_links),       cmocka_unit_test(test_symlinks),
        cmocka_unit_test(test_rename_over), cmocka_unit_test(test_rename_by_fid),
        cmocka_unit_test(test_unlink),      cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_readdir),     cmocka_unit_test(test_xattrs),
        cmocka_unit_test(test_locks),       cmocka_unit_test(test_locks_full),
        cmocka_unit_test(test_readonly),    cmocka_unit_test(test_statfs),
    };
    umask(0);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
