/*
 * Names of machines: folders, locks, what is left by a process that was killed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/machine.h"

static char dir[32];

static int make_dir(void **state)
{
    strcpy(dir, "/tmp/popf-test-XXXXXX");
    setenv("XDG_RUNTIME_DIR", mkdtemp(dir), 1);
    setenv("XDG_STATE_HOME", dir, 1);
    return 0;
}

static int remove_dir(void **state)
{
    char *all = machine_runtime(NULL, NULL);
    rmdir(all);
    free(all);
    return rmdir(dir);
}

static void names(void **state)
{
    static const char *const good[] = {"a", "Web-1", "a.b_c", "0"};
    static const char *const bad[] = {"", ".", "..", "-a", "a/b", "a b", "a\n", ".a"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(machine_name_ok(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(machine_name_ok(bad[i]));
    char longest[MACHINE_NAME_MAX + 2];
    memset(longest, 'a', sizeof(longest));
    longest[MACHINE_NAME_MAX + 1] = 0;
    assert_false(machine_name_ok(longest));
    longest[MACHINE_NAME_MAX] = 0;
    assert_true(machine_name_ok(longest));
}

static bool exists(const char *name, const char *file)
{
    char *path = machine_runtime(name, file);
    bool yes = !access(path, F_OK);
    free(path);
    return yes;
}

static void claim_and_release(void **state)
{
    struct popf_error err;
    struct stat st;
    bool taken;
    int lock = machine_claim("one", &taken, &err);
    assert_true(lock >= 0);
    assert_false(taken);
    char *path = machine_runtime("one", NULL);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    free(path);
    machine_unclaim("one", lock);
    assert_false(exists("one", NULL));
}

/* Claims the name in another process, which stays until its standard input ends. */
static pid_t claim_elsewhere(const char *name)
{
    int fds[2];
    char c;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (!pid) {
        struct popf_error err;
        bool taken;
        char *path = machine_runtime(name, "control");
        int lock = machine_claim(name, &taken, &err);
        int left = open(path, O_CREAT | O_WRONLY, 0600);
        if (lock >= 0 && left >= 0 && write(fds[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(fds[0], &c, 1), 1);
    close(fds[0]);
    close(fds[1]);
    return pid;
}

static void taken_by_another(void **state)
{
    struct popf_error err;
    bool taken;
    pid_t pid = claim_elsewhere("two");
    assert_int_equal(machine_owner("two"), pid);
    assert_int_equal(machine_claim("two", &taken, &err), -1);
    assert_true(taken);
    assert_non_null(strstr(err.msg, "two"));
    machine_sweep("two"); /* does nothing to one that lives */
    assert_true(exists("two", "control"));

    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(machine_owner("two"), 0);
    int lock = machine_claim("two", &taken, &err);
    assert_true(lock >= 0);
    assert_false(exists("two", "control")); /* what it left is gone */
    machine_unclaim("two", lock);
}

static void swept(void **state)
{
    pid_t pid = claim_elsewhere("three");
    char *all = machine_runtime(NULL, NULL);
    struct args list = machine_names(all);
    assert_int_equal(list.n, 1);
    assert_string_equal(list.v[0], "three");
    args_free(&list);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    machine_sweep("three");
    assert_false(exists("three", NULL));
    free(all);
}

static void foreign_folder(void **state)
{
    struct popf_error err;
    bool taken;
    char *all = machine_runtime(NULL, NULL);
    rmdir(all);
    assert_int_equal(symlink("/tmp", all), 0);
    assert_int_equal(machine_claim("four", &taken, &err), -1);
    assert_false(taken);
    unlink(all);
    assert_int_equal(mkdir(all, 0755), 0);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(claim_and_release),
        cmocka_unit_test(taken_by_another),
        cmocka_unit_test(swept),
        cmocka_unit_test(foreign_folder),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
