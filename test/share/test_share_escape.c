/*
 * Nothing outside the folder is reached: not by "..", not through symbolic links, not by names with
 * slashes, not while directories are renamed and replaced under the server's hands. And what
 * happens when descriptors are short, and to names that changed behind the server's back.
 */
#include "client.h"

#include <pthread.h>
#include <stdatomic.h>

static struct client client;

static struct client *begin(struct share_config cfg)
{
    start(&client, cfg);
    return &client;
}

#define BEGIN() begin((struct share_config){0})

/* A file beside the shared folder, which nobody may see. */
static void put_secret(struct client *c)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/secret", c->top);
    int fd = open(path, O_CREAT | O_WRONLY, 0644);
    assert_int_equal(write(fd, "secret", 6), 6);
    close(fd);
}

static void test_dotdot(void **state)
{
    struct client *c = BEGIN();
    struct attrs root, a;
    put_secret(c);
    assert_int_equal(getattr(c, 0, &root), 0);
    assert_int_equal(stat_path(c, "..", &a), 0);
    assert_int_equal(a.ino, root.ino);
    assert_int_equal(stat_path(c, "../../../..", &a), 0);
    assert_int_equal(a.ino, root.ino);
    assert_int_equal(stat_path(c, "../secret", &a), ENOENT);
    assert_int_equal(mkdir9(c, 0, "d", 0755), 0);
    assert_int_equal(stat_path(c, "d/..", &a), 0);
    assert_int_equal(a.ino, root.ino);
    assert_int_equal(stat_path(c, "d/../../secret", &a), ENOENT);
    assert_int_equal(mkdir9(c, 0, "..", 0755), EEXIST);
    assert_int_equal(put_file(c, "..", "", 0644), EEXIST);
    assert_int_equal(renameat9(c, 0, "d", 0, ".."), EINVAL);
    assert_int_equal(renameat9(c, 0, "..", 0, "x"), EINVAL);
    assert_int_equal(unlinkat9(c, 0, "..", 0x200), EINVAL);
    assert_int_equal(unlinkat9(c, 0, ".", 0x200), EINVAL);
    assert_int_equal(walk1(c, 0, 1, "."), ENOENT);
    stop(c);
}

static void test_slashes(void **state)
{
    struct client *c = BEGIN();
    put_secret(c);
    assert_int_equal(mkdir9(c, 0, "d", 0755), 0);
    assert_int_equal(put_file(c, "a", "", 0644), 0);
    assert_int_equal(walk1(c, 0, 1, "../secret"), EINVAL);
    assert_int_equal(walk1(c, 0, 1, "/etc/passwd"), EINVAL);
    assert_int_equal(walk1(c, 0, 1, "d/"), EINVAL);
    assert_int_equal(walk1(c, 0, 1, ""), ENOENT);
    assert_int_equal(mkdir9(c, 0, "d/e", 0755), EINVAL);
    assert_int_equal(mkdir9(c, 0, "../e", 0755), EINVAL);
    assert_int_equal(put_file(c, "../e", "", 0644), EINVAL);
    assert_int_equal(rpc(c, TSYMLINK, "dssd", 0, "../l", "x", 0), EINVAL);
    assert_int_equal(renameat9(c, 0, "a", 0, "../a"), EINVAL);
    assert_int_equal(renameat9(c, 0, "../secret", 0, "s"), EINVAL);
    assert_int_equal(unlinkat9(c, 0, "../secret", 0), EINVAL);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(rpc(c, TLINK, "dds", 0, 1, "../a"), EINVAL);
    assert_int_equal(rpc(c, TRENAME, "dds", 1, 0, "../a"), EINVAL);
    assert_int_equal(rpc(c, TWALK, "ddwp", 0, 2, 1, "\3\0a\0b", 5), EINVAL); /* a NUL inside */
    stop(c);
}

static void test_symlink_escape(void **state)
{
    struct client *c = BEGIN();
    struct attrs a;
    put_secret(c);
    assert_int_equal(symlink("..", host(c, "up")), 0);
    assert_int_equal(symlink("../secret", host(c, "s")), 0);
    assert_int_equal(symlink("/", host(c, "slash")), 0);
    assert_int_equal(symlink("/proc/self/fd", host(c, "fds")), 0);
    assert_int_equal(stat_path(c, "up/secret", &a), ENOENT); /* as far as "up": no directory */
    assert_int_equal(walk1(c, 0, 1, "up"), 0);
    assert_int_equal(walk1(c, 1, 2, "secret"), ENOTDIR);
    assert_int_equal(lopen(c, 1, O_RDONLY), ELOOP);
    assert_int_equal(mkdir9(c, 1, "x", 0755), ENOTDIR);
    assert_int_equal(walk1(c, 0, 3, "s"), 0);
    assert_int_equal(getattr(c, 3, &a), 0);
    assert_true(S_ISLNK(a.mode));
    assert_int_equal(lopen(c, 3, O_RDWR), ELOOP);
    assert_int_equal(setattr(c, 3, 8, 0, 0, 0, 0), EINVAL); /* truncation */
    setattr(c, 3, 1, 0777, 0, 0, 0);
    assert_int_equal(rpc(c, TWALK, "ddw", 0, 4, 0), 0);
    assert_int_equal(lcreate(c, 4, "s", O_RDWR, 0644), ELOOP);
    assert_int_equal(walk1(c, 0, 5, "slash"), 0);
    assert_int_equal(walk1(c, 5, 6, "etc"), ENOTDIR);
    assert_int_equal(walk1(c, 0, 7, "fds"), 0);
    assert_int_equal(walk1(c, 7, 8, "0"), ENOTDIR);
    /* Attributes through a link would be those of the secret. */
    struct stat st;
    char path[128];
    snprintf(path, sizeof(path), "%s/secret", c->top);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 6);
    assert_int_equal(st.st_mode & 0777, 0644);
    stop(c);
}

/* --- races --- */

static atomic_bool over;

/* Replaces d by a symbolic link to the folder above, and back, as fast as it can. */
static void *swap(void *arg)
{
    struct client *c = arg;
    char d[96], kept[96], link[96];
    snprintf(d, sizeof(d), "%s/d", c->dir);
    snprintf(kept, sizeof(kept), "%s/kept", c->dir);
    snprintf(link, sizeof(link), "%s/link", c->dir);
    while (!over) {
        rename(d, kept);
        rename(link, d);
        rename(d, link);
        rename(kept, d);
    }
    return NULL;
}

/* d/secret is never seen, whatever d is at the moment; nothing is made beside the folder. */
static void test_symlink_race(void **state)
{
    struct client *c = BEGIN();
    char beside[128];
    pthread_t t;
    unsigned hits = 0, misses = 0;
    put_secret(c);
    assert_int_equal(mkdir9(c, 0, "d", 0755), 0);
    assert_int_equal(symlink("..", host(c, "link")), 0);
    over = false;
    assert_int_equal(pthread_create(&t, NULL, swap, c), 0);
    for (int i = 0; i < 6000 || ((!hits || !misses) && i < 200000); i++) {
        assert_int_not_equal(walk(c, 0, 1, "d/secret"), 0);
        if (walk1(c, 0, 2, "d"))
            continue;
        int err = mkdir9(c, 2, "made", 0755);
        hits += !err;
        misses += err == ENOTDIR;
        unlinkat9(c, 2, "made", 0x200);
        clunk(c, 2);
    }
    over = true;
    pthread_join(t, NULL);
    snprintf(beside, sizeof(beside), "%s/made", c->top);
    assert_int_equal(access(beside, F_OK), -1);
    snprintf(beside, sizeof(beside), "%s/secret", c->top);
    assert_int_equal(access(beside, F_OK), 0);
    assert_true(hits > 0 && misses > 0); /* both were met: the race did take place */
    stop(c);
}

/* Moves a/b to the root and back: ".." from a/b/c must not go astray. */
static void *shuffle(void *arg)
{
    struct client *c = arg;
    char deep[96], shallow[96];
    snprintf(deep, sizeof(deep), "%s/a/b", c->dir);
    snprintf(shallow, sizeof(shallow), "%s/b", c->dir);
    while (!over) {
        rename(deep, shallow);
        rename(shallow, deep);
    }
    return NULL;
}

static void test_dotdot_race(void **state)
{
    struct client *c = BEGIN();
    pthread_t t;
    put_secret(c);
    assert_int_equal(mkdir9(c, 0, "a", 0755), 0);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(mkdir9(c, 1, "b", 0755), 0);
    assert_int_equal(walk(c, 0, 2, "a/b"), 0);
    assert_int_equal(mkdir9(c, 2, "c", 0755), 0);
    over = false;
    assert_int_equal(pthread_create(&t, NULL, shuffle, c), 0);
    for (int i = 0; i < 6000; i++) {
        assert_int_not_equal(walk(c, 0, 3, "a/b/c/../../../secret"), 0);
        assert_int_not_equal(walk(c, 0, 3, "b/c/../../../secret"), 0);
    }
    over = true;
    pthread_join(t, NULL);
    stop(c);
}

/* Two sessions' worth of threads on one server: nothing breaks (most telling under sanitizers). */
static void *churn(void *arg)
{
    struct client *c = arg;
    char from[16], to[16];
    u32 fid = 10 + c->top[0];
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(from, sizeof(from), "n%u", i * 7 % 5);
        snprintf(to, sizeof(to), "n%u", i * 3 % 5);
        mkdir9(c, 0, from, 0755);
        if (!walk1(c, 0, fid, from)) {
            renameat9(c, 0, from, fid, to);
            renameat9(c, 0, from, 0, to);
            walk1(c, fid, fid, "..");
            walk1(c, fid, fid, to);
            clunk(c, fid);
        }
        unlinkat9(c, 0, to, 0x200);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct client *c = BEGIN();
    struct client *others = calloc(3, sizeof(*others));
    pthread_t t[3];
    for (int i = 0; i < 3; i++) {
        others[i].s = c->s;
        others[i].top[0] = i;
        assert_int_equal(pthread_create(&t[i], NULL, churn, &others[i]), 0);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    free(others);
    stop(c);
}

/* --- few descriptors --- */

static void test_few_descriptors(void **state)
{
    struct client *c = begin((struct share_config){.fds_max = 16});
    char name[16];
    struct attrs a;
    for (u32 i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "d%u", i);
        assert_int_equal(mkdir9(c, 0, name, 0755), 0);
        assert_int_equal(walk1(c, 0, 100 + i, name), 0);
        assert_int_equal(mkdir9(c, 100 + i, "sub", 0755), 0);
        assert_int_equal(walk1(c, 100 + i, 300 + i, "sub"), 0);
    }
    /* Renames through the server are followed, also by fids whose descriptors were closed. */
    assert_int_equal(renameat9(c, 0, "d3", 0, "e3"), 0);
    for (u32 i = 0; i < 100; i++) {
        assert_int_equal(getattr(c, 300 + i, &a), 0);
        assert_true(S_ISDIR(a.mode));
    }
    /* What was removed is kept open for those who have it. */
    assert_int_equal(unlinkat9(c, 104, "sub", 0x200), 0);
    assert_int_equal(getattr(c, 304, &a), 0);
    assert_int_equal(a.nlink, 0);
    /* Behind the server's back: the name has another file now, or none. */
    assert_int_equal(rename(host(c, "d5"), host(c, "moved")), 0);
    assert_int_equal(mkdir(host(c, "d5"), 0755), 0);
    assert_int_equal(mkdir(host(c, "d5/sub"), 0755), 0);
    assert_int_equal(getattr(c, 305, &a), ESTALE);
    assert_int_equal(walk(c, 0, 999, "d5/sub"), 0);
    assert_int_equal(getattr(c, 999, &a), 0);
    assert_int_equal(clunk(c, 305), 0);
    stop(c);
}

/* Files that are open cannot be closed for want of descriptors: opening fails, and recovers. */
static void test_no_descriptors(void **state)
{
    struct client *c = begin((struct share_config){.fds_max = 16});
    u32 i, n;
    assert_int_equal(put_file(c, "a", "", 0644), 0);
    for (n = 0; n < 100; n++) {
        assert_int_equal(walk1(c, 0, 100 + n, "a"), 0);
        int err = lopen(c, 100 + n, O_RDONLY);
        if (err) {
            assert_int_equal(err, ENFILE);
            break;
        }
    }
    assert_true(n >= 12 && n < 16);
    for (i = 0; i <= n; i++)
        assert_int_equal(clunk(c, 100 + i), 0);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(lopen(c, 1, O_RDONLY), 0);
    stop(c);
}

/* Directories that others have moved about: the server's tree of names must not become a ring. */
static void test_moved_behind_the_back(void **state)
{
    struct client *c = begin((struct share_config){.fds_max = 16});
    struct attrs a;
    char was[128];
    assert_int_equal(mkdir9(c, 0, "a", 0755), 0);
    assert_int_equal(walk1(c, 0, 1, "a"), 0);
    assert_int_equal(mkdir9(c, 1, "b", 0755), 0);
    assert_int_equal(walk1(c, 1, 2, "b"), 0);
    snprintf(was, sizeof(was), "%s/a/b", c->dir);
    assert_int_equal(rename(was, host(c, "b")), 0);
    assert_int_equal(renameat9(c, 0, "a", 2, "a"), 0); /* a into b, which was in a */
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(getattr(c, 2, &a), 0);
    assert_int_equal(stat_path(c, "b/a", &a), 0);
    stop(c);
}

/* --- damaged messages --- */

static void test_damaged(void **state)
{
    struct client *c = BEGIN();
    u8 reply[64];
    assert_int_equal(share_serve(c->s, (const u8 *)"\7\0\0\0\x78", 5, reply, 64), 0);
    assert_int_equal(share_serve(c->s, (const u8 *)"\7\0\0\0\x78\1\0", 7, reply, 10), 0);
    assert_int_equal(share_serve(c->s, (const u8 *)"\7\0\0\0\x78\1\0", 7, reply, 64), 11);
    assert_int_equal(reply[4], 7);
    assert_int_equal(reply[7], EPROTO);
    assert_int_equal(share_serve(c->s, (const u8 *)"\xff\xff\xff\xff\x78\1\0", 7, reply, 64), 11);
    assert_int_equal(share_serve(c->s, (const u8 *)"\7\0\0\0\xff\1\0", 7, reply, 64), 11);
    assert_int_equal(reply[7], EOPNOTSUPP);
    assert_int_equal(rpc(c, TWALK, "ddw", 0, 1, 17), EINVAL);
    assert_int_equal(rpc(c, TWRITE, "dqd", 0, (u64)0, 0xffffffffu), EPROTO);
    assert_int_equal(rpc(c, TWALK, "ddww", 0, 1, 1, 0xffff), EPROTO);
    /* A reply that does not fit. */
    assert_int_equal(
        share_serve(c->s, (const u8 *)"\x13\0\0\0\x18\1\0\0\0\0\0\0\0\0\0\0\0\0\0", 19, reply, 64),
        11);
    assert_int_equal(reply[7], EOVERFLOW);
    stop(c);
}

/* Sharing all there is does not share the monitor's memory. */
static void test_proc(void **state)
{
    static struct client c;
    struct err e;
    struct attrs a;
    c.s = share_open(&(struct share_config){.path = "/", .readonly = true}, &e);
    assert_non_null(c.s);
    assert_int_equal(rpc(&c, TVERSION, "ds", MSIZE, "9P2000.L"), 0);
    assert_int_equal(rpc(&c, TATTACH, "ddssd", 0, SHARE_NOFID, "", "", 1234), 0);
    assert_int_equal(stat_path(&c, "etc/passwd", &a), 0);
    assert_int_equal(stat_path(&c, "proc", &a), EACCES);
    assert_int_equal(stat_path(&c, "proc/1/status", &a), EACCES);
    share_close(c.s);
}

static void test_open_errors(void **state)
{
    struct err e;
    assert_null(share_open(&(struct share_config){.path = "/nonexistent"}, &e));
    assert_non_null(strstr(e.msg, "/nonexistent"));
    assert_null(share_open(&(struct share_config){.path = "/etc/passwd"}, &e));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dotdot),
        cmocka_unit_test(test_slashes),
        cmocka_unit_test(test_symlink_escape),
        cmocka_unit_test(test_symlink_race),
        cmocka_unit_test(test_dotdot_race),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_few_descriptors),
        cmocka_unit_test(test_no_descriptors),
        cmocka_unit_test(test_moved_behind_the_back),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_proc),
        cmocka_unit_test(test_open_errors),
    };
    umask(0);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
