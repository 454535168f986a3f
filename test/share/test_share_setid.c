/*
 * Set-user-ID and set-group-ID go when somebody writes to the file, truncates it or gives it away.
 */
#include "client.h"

#define ROOT_FID 50 /* the folder, as the guest's root has it; 0 is an ordinary user's */

static struct client client;

static struct client *begin(void)
{
    start(&client, (struct share_config){0});
    assert_int_equal(rpc(&client, TATTACH, "ddssd", ROOT_FID, SHARE_NOFID, "", "", 0), 0);
    assert_int_equal(put_file(&client, "a", "hello", 0644), 0);
    return &client;
}

static u32 mode_of(struct client *c, const char *name)
{
    struct attrs a = {0};
    assert_int_equal(stat_path(c, name, &a), 0);
    return a.mode & 07777;
}

/* Fid 1 or 2 becomes that of file "a", of root's or the user's, and the file's mode `mode`. */
static void privileged(struct client *c, u32 fid, u32 mode)
{
    assert_int_equal(walk1(c, fid == 1 ? ROOT_FID : 0, fid, "a"), 0);
    assert_int_equal(setattr(c, fid, 1, mode, 0, 0, 0), 0);
    assert_int_equal(mode_of(c, "a"), mode);
}

static int write1(struct client *c, u32 fid, u32 size)
{
    return rpc(c, TWRITE, "dqdp", fid, (u64)0, size, "x", (int)size);
}

static void write_privileged(struct client *c, u32 fid, u32 mode, u32 expected)
{
    privileged(c, fid, mode);
    assert_int_equal(lopen(c, fid, O_WRONLY), 0);
    assert_int_equal(write1(c, fid, 0), 0);
    assert_int_equal(mode_of(c, "a"), mode);
    assert_int_equal(write1(c, fid, 1), 0);
    assert_int_equal(mode_of(c, "a"), expected);
    assert_int_equal(clunk(c, fid), 0);
}

/* Who is not root and writes takes set-user-ID, and set-group-ID of what the group executes. */
static void test_write(void **state)
{
    struct client *c = begin();
    if (mapped(c)) {
        write_privileged(c, 2, 04777, 0777);
        write_privileged(c, 2, 02777, 0777);
        write_privileged(c, 2, 06777, 0777);
        write_privileged(c, 2, 06767, 02767); /* mandatory locking's */
        write_privileged(c, 2, 07751, 01751);
        write_privileged(c, 1, 06777, 06777);
    }
    /* The host's own: its kernel does nothing where it is root that runs us. */
    assert_int_equal(close(open(host(c, "h"), O_CREAT | O_WRONLY, 0600)), 0);
    assert_int_equal(chmod(host(c, "h"), 04711), 0);
    assert_int_equal(mode_of(c, "h"), 04711);
    assert_int_equal(walk1(c, 0, 3, "h"), 0);
    assert_int_equal(lopen(c, 3, O_WRONLY), 0);
    assert_int_equal(write1(c, 3, 1), 0);
    assert_int_equal(mode_of(c, "h"), 0711);
    stop(c);
}

static void test_truncate(void **state)
{
    struct client *c = begin();
    if (!mapped(c)) {
        stop(c);
        skip();
    }
    for (u32 fid = 1; fid <= 2; fid++) {
        u32 expected = fid == 1 ? 06777 : 0777;
        privileged(c, fid, 06777);
        assert_int_equal(setattr(c, fid, 8, 0, 0, 0, 3), 0);
        assert_int_equal(mode_of(c, "a"), expected);
        assert_int_equal(setattr(c, fid, 9, 06777, 0, 0, 3), 0); /* with a mode: that is the one */
        assert_int_equal(mode_of(c, "a"), 06777);
        assert_int_equal(lopen(c, fid, O_RDONLY), 0);
        assert_int_equal(mode_of(c, "a"), 06777);
        assert_int_equal(clunk(c, fid), 0);
        privileged(c, fid, 06777);
        assert_int_equal(lopen(c, fid, O_WRONLY | O_TRUNC), 0);
        assert_int_equal(mode_of(c, "a"), expected);
        assert_int_equal(clunk(c, fid), 0);
        privileged(c, fid, 06777);
        assert_int_equal(rpc(c, TWALK, "ddw", fid == 1 ? ROOT_FID : 0, 5, 0), 0);
        assert_int_equal(lcreate(c, 5, "a", O_WRONLY | O_TRUNC, 0600), 0); /* it is there */
        assert_int_equal(mode_of(c, "a"), expected);
        assert_int_equal(clunk(c, 5), 0);
        assert_int_equal(clunk(c, fid), 0);
    }
    stop(c);
}

static void test_chown(void **state)
{
    struct client *c = begin();
    struct attrs a;
    if (!mapped(c)) {
        stop(c);
        skip();
    }
    privileged(c, 1, 06777);
    assert_int_equal(setattr(c, 1, 2, 0, 5, 0, 0), 0); /* root's chown as well */
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(a.uid, 5);
    assert_int_equal(a.mode, S_IFREG | 0777);
    assert_int_equal(setattr(c, 1, 5, 04755, 0, 6, 0), 0);
    assert_int_equal(getattr(c, 1, &a), 0);
    assert_int_equal(a.gid, 6);
    assert_int_equal(a.mode, S_IFREG | 04755);
    assert_int_equal(mkdir9(c, 0, "d", 02775), 0); /* a directory's is no privilege */
    assert_int_equal(walk1(c, 0, 2, "d"), 0);
    assert_int_equal(setattr(c, 2, 4, 0, 0, 6, 0), 0);
    assert_int_equal(mode_of(c, "d"), 02775);
    stop(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_chown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
