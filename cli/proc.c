#include "cli/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void proc_init(void)
{
    const char *path = getenv("PATH");
    char *all = xasprintf("%s:/usr/local/sbin:/usr/sbin:/sbin", path ? path : "/usr/bin:/bin");
    setenv("PATH", all, 1);
    free(all);
}

bool proc_exists(const char *name)
{
    for (const char *p = getenv("PATH"); p && *p; p += strspn(p, ":")) {
        char file[4096];
        int len = (int)strcspn(p, ":");
        int n = snprintf(file, sizeof(file), "%.*s/%s", len, p, name);
        if (n < (int)sizeof(file) && !access(file, X_OK))
            return true;
        p += len;
    }
    return false;
}

/* Moves fd to the number `to`; both may be the same. */
static void put(int fd, int to)
{
    if (fd < 0)
        fd = open("/dev/null", O_RDWR);
    if (fd == to)
        fcntl(fd, F_SETFD, 0);
    else
        dup2(fd, to);
}

static void default_signals(void)
{
    sigset_t none;
    for (int sig = 1; sig < 32; sig++)
        signal(sig, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

pid_t proc_start(char *const *argv, int in, int out, int err)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    default_signals();
    put(in, STDIN_FILENO);
    put(out, STDOUT_FILENO);
    put(err, STDERR_FILENO);
    execvp(argv[0], argv);
    dprintf(STDERR_FILENO, "E: cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

int proc_wait(pid_t pid)
{
    int status;
    if (pid < 0)
        return 127;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int proc_quiet(char *const *argv)
{
    return proc_wait(proc_start(argv, -1, -1, -1));
}

static char *read_all(int fd)
{
    size_t n = 0, room = 4096;
    char *text = xmalloc(room);
    for (;;) {
        ssize_t got = read(fd, text + n, room - n - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        n += (size_t)got;
        if (room - n < 2)
            text = xrealloc(text, room *= 2);
    }
    text[n] = 0;
    return text;
}

char *proc_output(char *const *argv)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC))
        return NULL;
    pid_t pid = proc_start(argv, -1, fds[1], -1);
    close(fds[1]);
    char *text = read_all(fds[0]);
    close(fds[0]);
    if (!proc_wait(pid))
        return text;
    free(text);
    return NULL;
}
