#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "boot/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void refused(const char *path, u64 max, const char *part)
{
    struct err e = {""};
    struct blob b;
    assert_int_equal(file_load(&(struct boot_src){.path = path}, "kernel", max, &b, &e), -1);
    if (!strstr(e.msg, part) || !strstr(e.msg, path))
        fail_msg("\"%s\" and \"%s\" are not in \"%s\"", part, path, e.msg);
    blob_free(&b);
}

/* A temporary file with `size` bytes; the caller unlinks it. */
static void make_file(char path[32], u64 size)
{
    strcpy(path, "/tmp/popf-test-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    if (size)
        assert_int_equal(pwrite(fd, "z", 1, size - 1), 1);
    close(fd);
}

static void reads_a_file(void **state)
{
    char path[32];
    struct err e;
    struct blob b;
    make_file(path, 100000);
    assert_int_equal(file_load(&(struct boot_src){.path = path}, "kernel", MiB, &b, &e), 0);
    assert_int_equal(b.size, 100000);
    assert_int_equal(b.data[99999], 'z');
    blob_free(&b);
    assert_null(b.data);
    refused(path, 99999, "too large");
    unlink(path);
    refused(path, MiB, "No such file");
}

static void borrows_a_buffer(void **state)
{
    struct err e;
    struct blob b;
    struct boot_src src = {.data = "abc", .size = 3};
    assert_int_equal(file_load(&src, "kernel", 3, &b, &e), 0);
    assert_ptr_equal(b.data, src.data);
    assert_null(b.owned);
    blob_free(&b);
    assert_int_equal(file_load(&src, "kernel", 2, &b, &e), -1);
    src.size = 0;
    assert_int_equal(file_load(&src, "kernel", 2, &b, &e), -1);
    assert_int_equal(file_load(&(struct boot_src){0}, "kernel", 2, &b, &e), -1);
}

static void refuses_what_is_no_file(void **state)
{
    char path[32];
    refused("/dev/null", MiB, "a device");
    refused("/tmp", MiB, "a directory");
    refused("/nonexistent/x", MiB, "No such file");
    make_file(path, 0);
    refused(path, MiB, "is empty");
    assert_int_equal(chmod(path, 0), 0);
    if (geteuid())
        refused(path, MiB, "Permission denied");
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    refused(path, MiB, "a pipe");
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_file),
        cmocka_unit_test(borrows_a_buffer),
        cmocka_unit_test(refuses_what_is_no_file),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
