/*
 * The translator where the host forbids memory that is writable and executable: it maps code
 * twice, or says in one line that it cannot work. Usage: test_no_wx GUEST.ELF
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "popf.h"
#include "translator.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE              65 /* linux/prctl.h, Linux 6.3 */
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

#define LIMIT_MS 60000

/* What a child found; its exit status. */
enum { RAN = 10, REFUSED, BAD, NO_SUCH_BAN };

static int run_here(const char *guest)
{
    struct popf_config cfg = POPF_CONFIG_INIT;
    struct popf_error err = {{0}};
    struct popf_outcome how = {.end = POPF_END_ERROR};
    cfg.kernel = guest;
    cfg.memory = 32 << 20;
    cfg.engine = "bt";
    cfg.debug_exit = true;
    struct popf *vm = popf_create(&cfg, &err);
    if (!vm) {
        fprintf(stderr, "# %s\n", err.msg);
        return strstr(err.msg, "executable memory") && !strchr(err.msg, '\n') ? REFUSED : BAD;
    }
    if (popf_start(vm, &err) || popf_wait_ms(vm, &how, LIMIT_MS))
        return BAD;
    popf_destroy(vm);
    return how.end == POPF_END_DEBUG_EXIT ? RAN : BAD;
}

/* In a process of its own, after the ban. */
static int run_under(int (*ban)(void), const char *guest)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (!pid)
        _exit(ban() ? NO_SUCH_BAN : run_here(guest));
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : BAD;
}

/* --- bans --- */

static int install(struct sock_filter *filter, size_t n)
{
    struct sock_fprog prog = {.len = (unsigned short)n, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define REFUSE(e)   BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (e))
#define ALLOW       BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
/* A call whose protection (argument 2) has all of these bits. */
#define NO_PROT(call, bits)                                                                        \
    LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (call), 0, 4), LOAD(args[2]),                    \
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (bits)),                                               \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (bits), 0, 1), REFUSE(EACCES)
#define NO_CALL(call) LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (call), 0, 1), REFUSE(EPERM)

static int ban_mdwe(void)
{
    return prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0);
}

static int ban_wx(void)
{
    struct sock_filter f[] = {NO_PROT(SYS_mmap, PROT_WRITE | PROT_EXEC),
                              NO_PROT(SYS_mprotect, PROT_EXEC), ALLOW};
    return install(f, sizeof(f) / sizeof(f[0]));
}

static int ban_wx_and_memfd(void)
{
    struct sock_filter f[] = {NO_PROT(SYS_mmap, PROT_WRITE | PROT_EXEC),
                              NO_PROT(SYS_mprotect, PROT_EXEC), NO_CALL(SYS_memfd_create), ALLOW};
    return install(f, sizeof(f) / sizeof(f[0]));
}

static int ban_exec(void)
{
    struct sock_filter f[] = {NO_PROT(SYS_mmap, PROT_EXEC), NO_PROT(SYS_mprotect, PROT_EXEC),
                              ALLOW};
    return install(f, sizeof(f) / sizeof(f[0]));
}

/* --- tests --- */

static void check(void **state, int (*ban)(void), int want, int or_else)
{
    int got = run_under(ban, *state);
    if (got == NO_SUCH_BAN) {
        print_message("# this kernel has no such ban\n");
        skip();
    }
    if (got != want)
        assert_int_equal(got, or_else);
}

static int ban_nothing(void)
{
    return 0;
}

static void test_no_ban(void **state)
{
    check(state, ban_nothing, RAN, RAN);
}

static void test_mdwe(void **state)
{
    check(state, ban_mdwe, RAN, RAN);
}

static void test_seccomp(void **state)
{
    check(state, ban_wx, RAN, RAN);
}

/* A file in /dev/shm or /tmp may do, or may not. */
static void test_no_memfd(void **state)
{
    check(state, ban_wx_and_memfd, RAN, REFUSED);
}

static void test_no_exec(void **state)
{
    check(state, ban_exec, REFUSED, REFUSED);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    setenv("POPF_BT_HOT", "1", 1);
    if (!have_translator(argv[1]))
        return 0;
#define TEST(f)                                                                                    \
    {                                                                                              \
#f, f, NULL, NULL, argv[1]                                                                 \
    }
    const struct CMUnitTest tests[] = {
        TEST(test_no_ban),   TEST(test_mdwe),    TEST(test_seccomp),
        TEST(test_no_memfd), TEST(test_no_exec),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("no writable and executable memory", tests, NULL, NULL);
}
