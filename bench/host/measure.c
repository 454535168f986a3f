/*
 * measure.c - runs a command and says what it took.
 *
 *   measure SECONDS OUTPUT COMMAND...
 *
 * The command's standard input is empty, its output and errors go to the file OUTPUT; after SECONDS
 * it and its process group are killed. Prints "STATUS MS CPU-MS RSS-KIB": the exit status (124: out
 * of time, 128 + N: by signal N), wall clock, processor time, peak resident size.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

static void child(const char *output, char **argv)
{
    sigset_t none;
    int in = open("/dev/null", O_RDONLY);
    int out = open(output, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
        _exit(126);
    execvp(argv[0], argv);
    perror(argv[0]);
    _exit(127);
}

/* The wait status; *late if the time was over first. */
static int wait_for(pid_t pid, const sigset_t *awaited, int seconds, struct rusage *ru, int *late)
{
    struct timespec left = {.tv_sec = seconds};
    double end = now_ms() + seconds * 1e3;
    int status;
    *late = 0;
    for (;;) {
        if (wait4(pid, &status, WNOHANG, ru) == pid)
            return status;
        int sig = sigtimedwait(awaited, NULL, &left);
        double rest = sig == SIGINT || sig == SIGTERM ? 0 : end - now_ms();
        if (rest <= 0)
            break;
        left = (struct timespec){.tv_sec = rest / 1e3, .tv_nsec = (long)(rest * 1e6) % 1000000000};
    }
    *late = 1;
    kill(-pid, SIGKILL);
    wait4(pid, &status, 0, ru);
    return status;
}

static double tv_ms(struct timeval tv)
{
    return tv.tv_sec * 1e3 + tv.tv_usec / 1e3;
}

int main(int argc, char **argv)
{
    sigset_t awaited;
    struct rusage ru;
    int late;

    if (argc < 4) {
        fprintf(stderr, "usage: measure SECONDS OUTPUT COMMAND...\n");
        return 2;
    }
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGCHLD);
    sigaddset(&awaited, SIGINT);
    sigaddset(&awaited, SIGTERM);
    sigprocmask(SIG_BLOCK, &awaited, NULL);
    double begin = now_ms();
    pid_t pid = fork();
    if (pid == 0)
        child(argv[2], argv + 3);
    if (pid < 0) {
        perror("fork");
        return 1;
    }
    int status = wait_for(pid, &awaited, atoi(argv[1]), &ru, &late);
    int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    printf("%d %.0f %.0f %ld\n", late ? 124 : code, now_ms() - begin,
           tv_ms(ru.ru_utime) + tv_ms(ru.ru_stime), ru.ru_maxrss);
    return 0;
}
