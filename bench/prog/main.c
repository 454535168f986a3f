/*
 * main.c - popfbench: times small programs, in a guest as on the host.
 *
 *   popfbench [-t MS] [-a NAME] [-1] [-l] NAME|GROUP|all...
 *
 * -t: measure each case for about this long; -a: begin after that case; -1: stay on one CPU; -l:
 * list. Prints, for each
 * case, `bench begin NAME` and then `bench done NAME GROUP NS OPS CHECK`: nanoseconds per operation
 * (the quickest of some batches: what else the machine does only adds), operations timed, and a
 * checksum, which is the same on every machine. `bench skip NAME GROUP WHY...` stands for the
 * second line where a case cannot run.
 */
#define _GNU_SOURCE /* sched_setaffinity() */
#include "bench.h"
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BATCHES     16
#define BATCHES_MIN 3

static const struct bench_case *const tables[] = {
    compute_cases, codec_cases, memory_cases, busybox_cases,
    float_cases,   code_cases,  sys_cases,    smp_cases,
};

u64 bench_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

void bench_die(const char *what)
{
    printf("bench error %s: %s\n", what, strerror(errno));
    exit(1);
}

void *bench_pages(size_t size, int prot)
{
    void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED)
        bench_die("mmap");
    return p;
}

const char *bench_mem(struct bench *b, size_t size)
{
    b->size = size;
    b->mem = bench_pages(size, PROT_READ | PROT_WRITE);
    return NULL;
}

void bench_mem_end(struct bench *b)
{
    munmap(b->mem, b->size);
}

void bench_text(u8 *text, size_t size)
{
    u32 seed = 42;
    unsigned word = 0;
    size_t i = 0;
    while (i < size) {
        /* Few words are frequent, many are rare, as in prose. */
        u32 r = bench_rand(&seed);
        u32 id = (r & 0xfff) >> (r >> 20 & 7);
        unsigned len = 2 + id % 7;
        for (unsigned k = 0; k < len && i < size; k++, id = id * 5 + 3)
            text[i++] = 'a' + id % 26;
        if (i < size)
            text[i++] = ++word % 12 ? ' ' : '\n';
    }
}

/* --- timing --- */

static u64 measure(struct bench *b, u64 n, u64 *check)
{
    b->excluded_ns = 0;
    u64 begin = bench_now_ns();
    *check = b->c->run(b, n);
    u64 ns = bench_now_ns() - begin;
    return ns > b->excluded_ns ? ns - b->excluded_ns : 0;
}

/* How many operations take about `want` nanoseconds, beginning at a guess. */
static u64 calibrate(struct bench *b, u64 n, u64 want, u64 *check)
{
    for (;;) {
        u64 begin = bench_now_ns();
        u64 ns = measure(b, n, check);
        u64 whole = bench_now_ns() - begin;
        /* What does not count takes time, too. */
        if (ns >= want / 2 || whole >= want * 4)
            return ns ? (u64)((double)n * want / ns) + 1 : n;
        n = ns < want / 64 ? n * 8 : n * 2;
    }
}

struct batches {
    double best; /* nanoseconds per operation */
    unsigned n;
    u64 ns, ops;
};

static void time_batches(struct bench *b, u64 n, u64 target, u64 check, struct batches *t)
{
    u64 last;
    *t = (struct batches){0};
    while (t->n < BATCHES && (t->n < BATCHES_MIN || t->ns < target)) {
        u64 ns = measure(b, n, &last);
        double per_op = (double)ns / n;
        t->best = t->n++ && t->best < per_op ? t->best : per_op;
        t->ns += ns;
        t->ops += n;
        if (last != check)
            printf("bench wrong %s %016llx %016llx\n", b->c->name, (unsigned long long)check,
                   (unsigned long long)last);
    }
}

static void time_case(struct bench *b, u64 target)
{
    u64 check, n = 1;
    struct batches t;
    /* Where a disturbance, or an engine that warms up, made the guess too low: again. */
    for (int tries = 0; tries < 3; tries++) {
        n = calibrate(b, n, target / BATCHES, &check);
        time_batches(b, n, target, check, &t);
        if (t.ns >= target / 2)
            break;
    }
    printf("bench done %s %s %.3f %llu %016llx\n", b->c->name, b->c->group, t.best,
           (unsigned long long)t.ops, (unsigned long long)check);
}

static void run_case(struct bench *b, const struct bench_case *c, u64 target)
{
    b->c = c;
    printf("bench begin %s\n", c->name);
    fflush(stdout);
    const char *why = c->setup ? c->setup(b) : NULL;
    if (why) {
        printf("bench skip %s %s %s\n", c->name, c->group, why);
        return;
    }
    time_case(b, target);
    if (c->end)
        c->end(b);
    fflush(stdout);
}

/* --- which --- */

static int wanted(const struct bench_case *c, char **names)
{
    for (; *names; names++) {
        /* Two CPUs are another machine: asked for by name. */
        if (!strcmp(*names, "all") && strcmp(c->group, "smp"))
            return 1;
        if (!strcmp(*names, c->name) || !strcmp(*names, c->group))
            return 1;
    }
    return 0;
}

static void for_cases(struct bench *b, char **names, const char *after, int list, u64 target)
{
    for (unsigned t = 0; t < N_OF(tables); t++) {
        for (const struct bench_case *c = tables[t]; c->name; c++) {
            if (list) {
                printf("%-10s %-5s one operation: %s\n", c->name, c->group, c->op);
            } else if (wanted(c, names)) {
                if (!after)
                    run_case(b, c, target);
                else if (!strcmp(after, c->name))
                    after = NULL;
            }
        }
    }
}

static void stay(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    if (sched_setaffinity(0, sizeof(set), &set))
        bench_die("sched_setaffinity");
}

static const char *env(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value ? value : otherwise;
}

int main(int argc, char **argv)
{
    u64 ms = 300;
    int list = 0, opt;
    const char *after = NULL;
    struct bench b = {
        .busybox = env("POPFBENCH_BUSYBOX", "/bin/busybox"),
        .tmp = env("POPFBENCH_TMP", "/tmp"),
    };

    if (argc == 2 && !strcmp(argv[1], "exit")) /* what the case `exec` executes */
        return 7;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while ((opt = getopt(argc, argv, "t:a:1l")) != -1) {
        if (opt == 't')
            ms = strtoull(optarg, NULL, 10);
        else if (opt == 'a')
            after = optarg;
        else if (opt == '1')
            stay();
        else if (opt == 'l')
            list = 1;
        else
            return 2;
    }
    if (!list && optind == argc) {
        fprintf(stderr, "usage: popfbench [-t MS] [-a NAME] [-1] [-l] NAME|GROUP|all...\n");
        return 2;
    }
    for_cases(&b, argv + optind, after, list, ms * 1000000u);
    printf("bench end\n");
    return 0;
}
