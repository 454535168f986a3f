#include "cli/term.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void restore(const struct termios *saved)
{
    while (tcsetattr(STDIN_FILENO, TCSANOW, saved) && errno == EINTR)
        ;
}

static void close_above(int keep)
{
    long max = sysconf(_SC_OPEN_MAX);
    if (max < 0 || max > 1024)
        max = 1024;
    for (int fd = 1; fd < max; fd++)
        if (fd != keep)
            close(fd);
}

/*
 * The guard: a byte means that popf has put the terminal right itself, end of file that it is gone.
 * It is not in popf's process group, so that keys that signal the group do not reach it; being in
 * the background then, it must not be stopped for touching the terminal.
 */
static void guard(int fd, const struct termios *saved)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    setpgid(0, 0);
    close_above(fd);
    char byte;
    ssize_t n;
    do
        n = read(fd, &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        restore(saved);
    _exit(0);
}

static void start_guard(struct term *t)
{
    int fds[2];
    t->guard_pipe = -1;
    if (pipe2(fds, O_CLOEXEC))
        return;
    t->guard = fork();
    if (t->guard == 0) {
        close(fds[1]);
        guard(fds[0], &t->saved);
    }
    close(fds[0]);
    if (t->guard < 0)
        close(fds[1]);
    else
        t->guard_pipe = fds[1];
}

void term_init(struct term *t)
{
    *t = (struct term){.guard_pipe = -1, .guard = -1};
    t->tty = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &t->saved) == 0;
    if (t->tty)
        start_guard(t);
}

void term_free(struct term *t)
{
    term_cooked(t);
    if (t->guard_pipe < 0)
        return;
    ssize_t n = write(t->guard_pipe, "", 1);
    (void)n;
    close(t->guard_pipe);
    t->guard_pipe = -1;
    while (waitpid(t->guard, NULL, 0) < 0 && errno == EINTR)
        ;
}

static bool foreground(void)
{
    pid_t pgrp = tcgetpgrp(STDIN_FILENO);
    return pgrp < 0 || pgrp == getpgrp(); /* < 0: a terminal that is not ours to control */
}

bool term_readable(const struct term *t)
{
    return !t->tty || foreground();
}

void term_raw(struct term *t)
{
    if (!t->tty || !foreground())
        return;
    struct termios raw = t->saved;
    cfmakeraw(&raw);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    t->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

void term_cooked(struct term *t)
{
    if (t->raw && foreground())
        restore(&t->saved);
    t->raw = false;
}
