/*
 * sys.c - what the kernel is asked for.
 */
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static u64 null_run(struct bench *b, u64 n)
{
    while (bench_again(b, &n))
        syscall(SYS_getppid);
    return 0;
}

static u64 clock_run(struct bench *b, u64 n)
{
    while (bench_again(b, &n))
        bench_now_ns();
    return 0;
}

/* --- pipe: a byte to another process and back --- */

static void echo(int in, int out)
{
    char c;
    while (read(in, &c, 1) == 1)
        if (write(out, &c, 1) != 1)
            break;
    _exit(0);
}

static const char *pipe_setup(struct bench *b)
{
    if (pipe(b->fd) || pipe(b->fd + 2))
        bench_die("pipe");
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork");
    if (pid == 0) {
        close(b->fd[1]);
        close(b->fd[2]);
        echo(b->fd[0], b->fd[3]);
    }
    b->n[0] = pid;
    close(b->fd[0]);
    close(b->fd[3]);
    return NULL;
}

static u64 pipe_run(struct bench *b, u64 n)
{
    char c = 'x';
    while (bench_again(b, &n))
        if (write(b->fd[1], &c, 1) != 1 || read(b->fd[2], &c, 1) != 1)
            bench_die("pipe");
    return c;
}

static void pipe_end(struct bench *b)
{
    close(b->fd[1]);
    close(b->fd[2]);
    waitpid(b->n[0], NULL, 0);
}

/* --- processes --- */

static u64 fork_run(struct bench *b, u64 n)
{
    int status = 0;
    while (bench_again(b, &n)) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(7);
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
            bench_die("fork");
    }
    return WEXITSTATUS(status);
}

static u64 exec_run(struct bench *b, u64 n)
{
    int status = 0;
    while (bench_again(b, &n)) {
        pid_t pid = fork();
        if (pid == 0) {
            execl("/proc/self/exe", "popfbench", "exit", (char *)NULL);
            _exit(1);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
            bench_die("fork");
    }
    return WEXITSTATUS(status);
}

/* --- memory --- */

#define PAGE 4096

#define TOUCH_PAGES 512

/* Not in huge pages, which would make one fault of them all. */
static void *small_pages(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        bench_die("mmap");
    madvise(p, size, MADV_NOHUGEPAGE);
    return p;
}

static u64 touch_run(struct bench *b, u64 n)
{
    while (bench_again(b, &n)) {
        u64 begin = bench_now_ns();
        u8 *p = small_pages(TOUCH_PAGES * PAGE);
        b->excluded_ns += bench_now_ns() - begin;
        for (int i = 0; i < TOUCH_PAGES; i++)
            ((volatile u8 *)p)[i * PAGE] = 1;
        begin = bench_now_ns();
        munmap(p, TOUCH_PAGES * PAGE);
        b->excluded_ns += bench_now_ns() - begin;
    }
    return 0;
}

static u64 mmap_run(struct bench *b, u64 n)
{
    while (bench_again(b, &n)) {
        u8 *p = mmap(NULL, 64 * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            bench_die("mmap");
        *(volatile u8 *)p = 1;
        munmap(p, 64 * 1024);
    }
    return 0;
}

static void unprotect(int sig, siginfo_t *info, void *context)
{
    void *page = (void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1));
    if (mprotect(page, PAGE, PROT_READ | PROT_WRITE))
        _exit(1);
}

static const char *protect_setup(struct bench *b)
{
    struct sigaction sa = {.sa_sigaction = unprotect, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &sa, NULL);
    return bench_mem(b, PAGE);
}

static u64 protect_run(struct bench *b, u64 n)
{
    u8 value = 0;
    while (bench_again(b, &n)) {
        if (mprotect(b->mem, PAGE, PROT_READ))
            bench_die("mprotect");
        *(volatile u8 *)b->mem = value = 3;
    }
    return *(volatile u8 *)b->mem + value;
}

static void protect_end(struct bench *b)
{
    signal(SIGSEGV, SIG_DFL);
    bench_mem_end(b);
}

/* --- signals --- */

static void nothing(int sig)
{
}

static const char *signal_setup(struct bench *b)
{
    struct sigaction sa = {.sa_handler = nothing};
    sigaction(SIGUSR1, &sa, NULL);
    return NULL;
}

static u64 signal_run(struct bench *b, u64 n)
{
    pid_t self = getpid();
    while (bench_again(b, &n))
        kill(self, SIGUSR1);
    return 0;
}

/* --- files --- */

static u64 file_run(struct bench *b, u64 n)
{
    char name[256], text[1024];
    snprintf(name, sizeof(name), "%s/popfbench.%d", b->tmp, (int)getpid());
    memset(text, 'x', sizeof(text));
    while (bench_again(b, &n)) {
        int fd = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0600);
        if (fd < 0 || write(fd, text, sizeof(text)) != sizeof(text))
            bench_die(name);
        close(fd);
        unlink(name);
    }
    return 0;
}

static u64 stat_run(struct bench *b, u64 n)
{
    struct stat st;
    while (bench_again(b, &n))
        if (stat(b->tmp, &st))
            bench_die(b->tmp);
    return S_ISDIR(st.st_mode);
}

/* --- threads --- */

struct pingpong {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int turn; /* 0: ours, 1: the other's, 2: over */
    pthread_t other;
};

static void pass(struct pingpong *p, int me)
{
    pthread_mutex_lock(&p->lock);
    p->turn = !me;
    pthread_cond_signal(&p->changed);
    while (p->turn == !me)
        pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void *other_player(void *arg)
{
    struct pingpong *p = arg;
    pthread_mutex_lock(&p->lock);
    while (p->turn == 0)
        pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
    while (p->turn == 1)
        pass(p, 1);
    return NULL;
}

static const char *pingpong_setup(struct bench *b)
{
    bench_mem(b, sizeof(struct pingpong));
    struct pingpong *p = b->data;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    p->turn = 0;
    if (pthread_create(&p->other, NULL, other_player, p))
        bench_die("pthread_create");
    return NULL;
}

static u64 pingpong_run(struct bench *b, u64 n)
{
    while (bench_again(b, &n))
        pass(b->data, 0);
    return 0;
}

static void pingpong_end(struct bench *b)
{
    struct pingpong *p = b->data;
    pthread_mutex_lock(&p->lock);
    p->turn = 2;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->other, NULL);
    bench_mem_end(b);
}

static void *idle_thread(void *arg)
{
    return arg;
}

static u64 thread_run(struct bench *b, u64 n)
{
    pthread_t t;
    void *result = NULL;
    while (bench_again(b, &n)) {
        if (pthread_create(&t, NULL, idle_thread, b))
            bench_die("pthread_create");
        pthread_join(t, &result);
    }
    return result == b;
}

/* --- two CPUs: SHA-256 on one thread, and on two at once --- */

#define SHA_BLOCKS 512

static void *sha_thread(void *arg)
{
    struct bench *b = arg;
    u64 sum = 0;
    for (long i = 0; i < b->n[0]; i++)
        sum = codec_sha256_blocks(b->mem, SHA_BLOCKS);
    return (void *)(uintptr_t)sum;
}

static const char *sha_setup(struct bench *b)
{
    bench_mem(b, 64);
    bench_text(b->mem, 64);
    return NULL;
}

static u64 sha_one_run(struct bench *b, u64 n)
{
    b->n[0] = n;
    return (uintptr_t)sha_thread(b);
}

static const char *sha_two_setup(struct bench *b)
{
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
        return "there is one CPU";
    return sha_setup(b);
}

static u64 sha_two_run(struct bench *b, u64 n)
{
    pthread_t t;
    void *result;
    b->n[0] = n;
    if (pthread_create(&t, NULL, sha_thread, b))
        bench_die("pthread_create");
    u64 sum = (uintptr_t)sha_thread(b);
    pthread_join(t, &result);
    return sum == (uintptr_t)result ? sum : 0;
}

const struct bench_case sys_cases[] = {
    {"null", "sys", "getppid()", NULL, null_run, NULL},
    {"clock", "sys", "clock_gettime(CLOCK_MONOTONIC)", NULL, clock_run, NULL},
    {"pipe", "sys", "a byte to another process and back", pipe_setup, pipe_run, pipe_end},
    {"fork", "sys", "fork, exit, wait", NULL, fork_run, NULL},
    {"exec", "sys", "fork, execute a small static program, wait", NULL, exec_run, NULL},
    {"touch", "sys", "first touch of 512 pages", NULL, touch_run, NULL},
    {"mmap", "sys", "mmap of 64 KiB, a touch, munmap", NULL, mmap_run, NULL},
    {"mprotect", "sys", "a page protected, written, unprotected by the SIGSEGV handler",
     protect_setup, protect_run, protect_end},
    {"signal", "sys", "a signal to oneself, with a handler", signal_setup, signal_run, NULL},
    {"file", "sys", "file created, 1 KiB written, closed, unlinked, in a tmpfs", NULL, file_run,
     NULL},
    {"stat", "sys", "stat()", NULL, stat_run, NULL},
    {"pingpong", "sys", "a turn to another thread and back, mutex and condition variable",
     pingpong_setup, pingpong_run, pingpong_end},
    {"thread", "sys", "a thread created and joined", NULL, thread_run, NULL},
    {0},
};

const struct bench_case smp_cases[] = {
    {"sha-one", "smp", "SHA-256 of 32 KiB on one thread", sha_setup, sha_one_run, bench_mem_end},
    {"sha-two", "smp", "SHA-256 of 32 KiB on each of two threads", sha_two_setup, sha_two_run,
     bench_mem_end},
    {"pingpong2", "smp", "a turn to another thread and back, on two CPUs", pingpong_setup,
     pingpong_run, pingpong_end},
    {0},
};
