/*
 * User code that bt executes directly, from outside: the process that it runs in, and hosts on
 * which there can be none. Usage: test_direct LOOP.ELF
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "popf.h"
#include "translator.h"

#define SHARED   0x9000u
#define LIMIT_MS 20000

/* ORDER LOOP: loop.c */
struct shared {
    uint64_t count;
    uint32_t stop;
};

static void nap(unsigned us)
{
    nanosleep(&(struct timespec){.tv_nsec = us * 1000l}, NULL);
}

/* --- the machine --- */

static struct popf *start(const char *guest, const char *cmdline)
{
    struct popf_config cfg = POPF_CONFIG_INIT;
    struct popf_error err = {{0}};
    cfg.kernel = guest;
    cfg.cmdline = cmdline;
    cfg.memory = 32 << 20;
    cfg.engine = "bt";
    cfg.debug_exit = true;
    struct popf *vm = popf_create(&cfg, &err);
    if (!vm || popf_start(vm, &err)) {
        fprintf(stderr, "# %s\n", err.msg);
        popf_destroy(vm);
        return NULL;
    }
    return vm;
}

static uint64_t count_of(struct popf *vm)
{
    struct shared s = {0};
    popf_read_memory(vm, SHARED, &s, sizeof(s), NULL);
    return s.count;
}

/* The guest goes on counting. */
static bool goes_on(struct popf *vm)
{
    uint64_t from = count_of(vm);
    for (unsigned n = 0; n < LIMIT_MS; n++) {
        if (count_of(vm) > from + 10)
            return true;
        nap(1000);
    }
    return false;
}

static bool ends_well(struct popf *vm)
{
    struct popf_outcome how = {.end = POPF_END_ERROR};
    uint32_t stop = 1;
    popf_write_memory(vm, SHARED + offsetof(struct shared, stop), &stop, sizeof(stop), NULL);
    bool late = popf_wait_ms(vm, &how, LIMIT_MS) != 0;
    if (late || how.end != POPF_END_DEBUG_EXIT || how.code != 1)
        fprintf(stderr, "# %s: %s, code %u\n", late ? "late" : "ended", how.text, how.code);
    return !late && how.end == POPF_END_DEBUG_EXIT && how.code == 1;
}

/* --- its process --- */

static bool is_child(const char *pid)
{
    char path[300], line[512] = "";
    snprintf(path, sizeof(path), "/proc/%s/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    size_t n = fread(line, 1, sizeof(line) - 1, f);
    fclose(f);
    line[n] = 0;
    const char *end = strrchr(line, ')');
    int parent = 0;
    return end && sscanf(end + 1, " %*c %d", &parent) == 1 && parent == getpid();
}

/* A process that is a child of ours; 0: none. */
static pid_t child(void)
{
    DIR *d = opendir("/proc");
    pid_t pid = 0;
    for (struct dirent *e; d && !pid && (e = readdir(d));)
        if (atoi(e->d_name) && is_child(e->d_name))
            pid = atoi(e->d_name);
    if (d)
        closedir(d);
    return pid;
}

static pid_t wait_child(void)
{
    pid_t pid = 0;
    for (unsigned n = 0; n < 5000 && !pid; n++) {
        pid = child();
        nap(1000);
    }
    return pid;
}

/* A guest in user code, in a process; skips where there is none. */
static struct popf *start_direct(void **state, const char *cmdline, pid_t *pid)
{
    struct popf *vm = start(*state, cmdline);
    assert_non_null(vm);
    assert_true(goes_on(vm));
    *pid = wait_child();
    if (!*pid) {
        popf_destroy(vm);
        print_message("# this host executes no user code directly\n");
        skip();
    }
    return vm;
}

/* --- tests --- */

static void test_runs(void **state)
{
    pid_t pid;
    struct popf *vm = start_direct(state, "", &pid);
    assert_true(ends_well(vm));
    popf_destroy(vm);
    assert_int_equal(child(), 0);
}

static void test_stops(void **state)
{
    for (unsigned n = 0; n < 5; n++) {
        pid_t pid;
        struct popf *vm = start_direct(state, n & 1 ? "calls=1" : "", &pid);
        popf_destroy(vm); /* as it counts */
        assert_int_equal(child(), 0);
    }
}

static void test_pause(void **state)
{
    pid_t pid;
    struct popf *vm = start_direct(state, "", &pid);
    for (unsigned n = 0; n < 50; n++) {
        struct popf_regs r;
        popf_pause(vm);
        uint64_t count = count_of(vm);
        assert_int_equal(popf_get_regs(vm, 0, &r, NULL), 0);
        nap(500);
        assert_int_equal(r.cs.sel & 3, 3);
        assert_int_equal(r.rip >> 12, 0x380000400);
        assert_int_equal(count_of(vm), count);
        popf_resume(vm);
        assert_true(goes_on(vm));
    }
    assert_true(ends_well(vm));
    popf_destroy(vm);
}

/* Of a terminal, of a user: the guest does not see them. */
static void test_signals(void **state)
{
    static const int signals[] = {SIGINT,  SIGTERM, SIGWINCH, SIGHUP,  SIGSTOP, SIGCONT,
                                  SIGUSR1, SIGQUIT, SIGCHLD,  SIGALRM, SIGPROF, SIGTSTP};
    for (unsigned calls = 0; calls < 2; calls++) {
        pid_t pid;
        struct popf *vm = start_direct(state, calls ? "calls=1" : "", &pid);
        for (unsigned n = 0; n < 3000; n++) {
            kill(pid, signals[n % (sizeof(signals) / sizeof(signals[0]))]);
            if (n % 16 == 0)
                nap(100);
        }
        assert_true(goes_on(vm));
        assert_true(ends_well(vm));
        popf_destroy(vm);
    }
}

static void test_killed(void **state)
{
    for (unsigned n = 0; n < 8; n++) {
        struct popf_outcome how;
        pid_t pid;
        struct popf *vm = start_direct(state, n & 1 ? "calls=1" : "", &pid);
        nap(n * 137);
        kill(pid, SIGKILL);
        /* Between two stays in the process nothing is lost: then it goes on, translated. */
        bool late = popf_wait_ms(vm, &how, n & 1 ? 300 : LIMIT_MS) != 0;
        if (late) {
            assert_true(n & 1);
            assert_true(goes_on(vm));
            assert_true(ends_well(vm));
        } else {
            assert_int_equal(how.end, POPF_END_ERROR);
            assert_non_null(strstr(how.text, "killed"));
            assert_null(strchr(how.text, '\n'));
        }
        popf_destroy(vm);
        assert_int_equal(child(), 0);
    }
}

/* --- hosts that forbid it --- */

#define LOAD(field)      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define EQUAL(k, yes, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (k), (yes), (n))
#define RETURN(what)     BPF_STMT(BPF_RET | BPF_K, (what))
#define REFUSE           RETURN(SECCOMP_RET_ERRNO | EPERM)
#define ALLOW            RETURN(SECCOMP_RET_ALLOW)

static int install(struct sock_filter *filter, size_t n)
{
    struct sock_fprog prog = {.len = (unsigned short)n, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int ban_ptrace(void)
{
    struct sock_filter f[] = {LOAD(nr), EQUAL(SYS_ptrace, 0, 1), REFUSE, ALLOW};
    return install(f, 4);
}

static int ban_ptrace_deadly(void)
{
    struct sock_filter f[] = {LOAD(nr), EQUAL(SYS_ptrace, 0, 1), RETURN(SECCOMP_RET_KILL_PROCESS),
                              ALLOW};
    return install(f, 4);
}

/* Processes, not threads. */
static int ban_clone(void)
{
    struct sock_filter f[] = {LOAD(nr),      EQUAL(SYS_clone, 0, 3),
                              LOAD(args[0]), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x10000, 1, 0),
                              REFUSE,        ALLOW};
    return install(f, 6);
}

static int ban_memfd(void)
{
    struct sock_filter f[] = {LOAD(nr), EQUAL(SYS_memfd_create, 0, 1), REFUSE, ALLOW};
    return install(f, 4);
}

enum { RAN = 10, BAD, NO_SUCH_BAN };

static int run_translated(const char *guest)
{
    struct popf *vm = start(guest, "");
    if (!vm || !goes_on(vm) || child() || !ends_well(vm))
        return BAD;
    popf_destroy(vm);
    return RAN;
}

static void check_ban(void **state, int (*ban)(void))
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (!pid)
        _exit(ban() ? NO_SUCH_BAN : run_translated(*state));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_SUCH_BAN) {
        print_message("# this kernel has no such ban\n");
        skip();
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), RAN);
}

static void test_no_ptrace(void **state)
{
    check_ban(state, ban_ptrace);
}

static void test_deadly_ptrace(void **state)
{
    check_ban(state, ban_ptrace_deadly);
}

static void test_no_clone(void **state)
{
    check_ban(state, ban_clone);
}

static void test_no_memfd(void **state)
{
    check_ban(state, ban_memfd);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    setenv("POPF_BT_DIRECT", "always", 1);
    setenv("POPF_BT_HOT", "1", 1);
    if (!have_translator(argv[1]))
        return 0;
#define TEST(f)                                                                                    \
    {                                                                                              \
#f, f, NULL, NULL, argv[1]                                                                 \
    }
    const struct CMUnitTest tests[] = {
        TEST(test_runs),          TEST(test_stops),    TEST(test_pause),
        TEST(test_signals),       TEST(test_killed),   TEST(test_no_ptrace),
        TEST(test_deadly_ptrace), TEST(test_no_clone), TEST(test_no_memfd),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("user code in a process", tests, NULL, NULL);
}
