/*
 * Where the packages of an image come from, when the machine's apt knows more of one architecture
 * than of another.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/build.h"

static const char apt[] =
    "#!/bin/sh\n"
    "echo 'http://h/debian/|bookworm|main|amd64|Debian|Debian'\n"
    "echo 'http://h/debian/|bookworm|main|i386|Debian|Debian'\n"
    "echo 'http://h/sec/|bookworm-security|main|amd64|Debian|Debian-Security'\n"
    "echo 'http://h/debian/|bookworm-backports|main|amd64|Debian|Debian'\n"
    "echo 'http://h/other/|bookworm|main|amd64|Other|Other'\n";

struct said {
    char dir[64], text[1000];
    struct args lines;
};

/* What build_apt_sources() makes of it, with what it says on standard error. */
static void ask(struct said *s, const char *arch)
{
    char path[100];
    struct build_options o = {.suite = "bookworm", .arch = arch};
    snprintf(path, sizeof(path), "%s/err", s->dir);
    int old = dup(2), fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(old >= 0 && fd >= 0);
    dup2(fd, 2);
    args_free(&s->lines);
    s->lines = (struct args){0};
    build_apt_sources(&o, &s->lines);
    dup2(old, 2);
    ssize_t n = pread(fd, s->text, sizeof(s->text) - 1, 0);
    s->text[n > 0 ? n : 0] = 0;
    close(fd);
    close(old);
}

static int setup(void **state)
{
    struct said *s = calloc(1, sizeof(*s));
    char path[100];
    strcpy(s->dir, "/tmp/popf-sources.XXXXXX");
    if (!mkdtemp(s->dir))
        return -1;
    snprintf(path, sizeof(path), "%s/apt-get", s->dir);
    FILE *f = fopen(path, "w");
    if (!f)
        return -1;
    fputs(apt, f);
    fclose(f);
    chmod(path, 0755);
    setenv("PATH", s->dir, 1);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"apt-get", "err"};
    struct said *s = *state;
    char path[100];
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", s->dir, names[i]);
        unlink(path);
    }
    rmdir(s->dir);
    args_free(&s->lines);
    free(s);
    return 0;
}

static void test_complete(void **state)
{
    struct said *s = *state;
    ask(s, "amd64");
    assert_int_equal(s->lines.n, 2);
    assert_string_equal(s->lines.v[0], "deb http://h/debian/ bookworm main");
    assert_string_equal(s->lines.v[1], "deb http://h/sec/ bookworm-security main");
    assert_string_equal(s->text, "");
}

static void test_suite_missing(void **state)
{
    struct said *s = *state;
    ask(s, "i386");
    assert_int_equal(s->lines.n, 1);
    assert_string_equal(s->lines.v[0], "deb http://h/debian/ bookworm main");
    assert_non_null(strstr(s->text, "without \"deb http://h/sec/ bookworm-security main\""));
    assert_non_null(strstr(s->text, "i386"));
    assert_null(strchr(strchr(s->text, '\n') + 1, '\n')); /* one line */
}

static void test_arch_unknown(void **state)
{
    struct said *s = *state;
    ask(s, "arm64");
    assert_int_equal(s->lines.n, 2); /* mirrors have all architectures */
    assert_string_equal(s->text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_complete),
        cmocka_unit_test(test_suite_missing),
        cmocka_unit_test(test_arch_unknown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, setup, teardown);
}
