/*
 * busybox.c - BusyBox's gzip, awk and sort over a text.
 */
#include "bench.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEXT_SIZE (128 * 1024)

static const char *text_setup(struct bench *b)
{
    char name[256];
    if (access(b->busybox, X_OK))
        return "no BusyBox at $POPFBENCH_BUSYBOX";
    bench_mem(b, TEXT_SIZE);
    bench_text(b->mem, TEXT_SIZE);
    snprintf(name, sizeof(name), "%s/popfbench.%d", b->tmp, (int)getpid());
    b->fd[0] = open(name, O_CREAT | O_TRUNC | O_RDWR, 0600);
    if (b->fd[0] < 0 || write(b->fd[0], b->mem, TEXT_SIZE) != TEXT_SIZE)
        bench_die(name);
    unlink(name);
    return NULL;
}

static void text_end(struct bench *b)
{
    close(b->fd[0]);
    bench_mem_end(b);
}

/* A checksum of what the command says. */
static u64 filter(struct bench *b, const char *applet, const char *arg)
{
    int out[2], status;
    u8 buf[4096];
    u32 crc = 0;
    lseek(b->fd[0], 0, SEEK_SET);
    if (pipe(out))
        bench_die("pipe");
    pid_t pid = fork();
    if (pid == 0) {
        dup2(b->fd[0], 0);
        dup2(out[1], 1);
        close(out[0]);
        close(out[1]);
        execl(b->busybox, "busybox", applet, arg, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    for (ssize_t n; (n = read(out[0], buf, sizeof(buf))) > 0;)
        crc = codec_crc32(crc, buf, n);
    close(out[0]);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
        bench_die(applet);
    return crc;
}

static u64 gzip_run(struct bench *b, u64 n)
{
    u64 sum = 0;
    while (bench_again(b, &n))
        sum = filter(b, "gzip", "-c");
    return sum;
}

static u64 awk_run(struct bench *b, u64 n)
{
    u64 sum = 0;
    while (bench_again(b, &n))
        sum = filter(b, "awk",
                     "{ for (i = 1; i <= NF; i++) { count[$i]++; letters += length($i) } }"
                     "END { for (w in count) if (count[w] > most) { most = count[w]; which = w }"
                     " print letters, which, most }");
    return sum;
}

static u64 sort_run(struct bench *b, u64 n)
{
    u64 sum = 0;
    while (bench_again(b, &n))
        sum = filter(b, "sort", "-k2");
    return sum;
}

const struct bench_case busybox_cases[] = {
    {"gzip", "int", "BusyBox gzip of 128 KiB of text", text_setup, gzip_run, text_end},
    {"awk", "int", "BusyBox awk counting words of 128 KiB", text_setup, awk_run, text_end},
    {"sort", "int", "BusyBox sort of 128 KiB by the second field", text_setup, sort_run, text_end},
    {0},
};
