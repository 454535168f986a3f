/*
 * memory.c - memory: pointer chases, strings, copies, streams.
 */
#include "bench.h"
#include <string.h>

/* --- pointer chase: one cycle through all lines of the buffer, in no order --- */

#define LINE        64
#define CHASE_STEPS 4096

struct link {
    struct link *next;
    u8 rest[LINE - sizeof(void *)];
};

static const char *chase_setup(struct bench *b, size_t size)
{
    bench_mem(b, size);
    struct link *links = b->data;
    u32 n = size / LINE, seed = 5;
    for (u32 i = 0; i < n; i++)
        links[i].next = &links[i];
    /* Sattolo: swaps that leave one cycle. */
    for (u32 i = n - 1; i > 0; i--) {
        u32 k = bench_rand(&seed) % i;
        struct link *t = links[i].next;
        links[i].next = links[k].next;
        links[k].next = t;
    }
    return NULL;
}

static const char *chase_in_setup(struct bench *b)
{
    return chase_setup(b, 32 * 1024);
}

static const char *chase_out_setup(struct bench *b)
{
    return chase_setup(b, 64 * 1024 * 1024);
}

static u64 chase_run(struct bench *b, u64 n)
{
    const struct link *p = b->data;
    while (bench_again(b, &n))
        for (int i = 0; i < CHASE_STEPS; i++)
            p = p->next;
    bench_escape(p);
    return 0;
}

/* --- string functions of the C library, over short strings --- */

#define STRING_SIZE 4096

static const char *string_setup(struct bench *b)
{
    bench_mem(b, STRING_SIZE * 2);
    bench_text(b->mem, STRING_SIZE - 1);
    for (int i = 0; i < STRING_SIZE; i++)
        if (b->mem[i] == '\n')
            b->mem[i] = 0;
    return NULL;
}

static u64 string_run(struct bench *b, u64 n)
{
    const char *text = (const char *)b->mem, *end = text + STRING_SIZE;
    char *copy = (char *)b->mem + STRING_SIZE;
    u64 sum = 0;
    while (bench_again(b, &n)) {
        sum = 0;
        for (const char *s = text; s < end; s += strlen(s) + 1) {
            strcpy(copy, s);
            sum += strcmp(copy, s) == 0;
            const char *space = strchr(copy, ' ');
            sum += space ? space - copy : 0;
            const char *found = strstr(copy, " a");
            sum += found ? found - copy : 0;
            sum += memchr(copy, 'z', strlen(copy)) != NULL;
        }
    }
    return sum;
}

/* --- copies --- */

#define COPY_SIZE (16 * 1024)

static const char *copy_setup(struct bench *b)
{
    bench_mem(b, COPY_SIZE * 2);
    bench_text(b->mem, COPY_SIZE);
    return NULL;
}

static u64 memcpy_run(struct bench *b, u64 n)
{
    while (bench_again(b, &n)) {
        memcpy(b->mem + COPY_SIZE, b->mem, COPY_SIZE);
        bench_escape(b->mem);
    }
    return b->mem[COPY_SIZE + 1000];
}

static u64 rep_run(struct bench *b, u64 n)
{
    while (bench_again(b, &n)) {
        void *to = b->mem + COPY_SIZE;
        const void *from = b->mem;
        size_t count = COPY_SIZE;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
        to = b->mem + COPY_SIZE;
        count = COPY_SIZE / 2;
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(1) : "memory");
    }
    return b->mem[COPY_SIZE + 1000] + b->mem[COPY_SIZE * 2 - 1];
}

/* --- stream: a = b + k * c over arrays larger than the cache of a core --- */

#define STREAM_N (1024 * 1024)

static const char *stream_setup(struct bench *b)
{
    bench_mem(b, STREAM_N * 3 * 8);
    for (u32 i = 0; i < STREAM_N * 3; i++)
        b->quads[i] = i;
    return NULL;
}

static u64 stream_run(struct bench *b, u64 n)
{
    u64 *to = b->quads;
    const u64 *x = to + STREAM_N, *y = x + STREAM_N;
    while (bench_again(b, &n)) {
        for (u32 i = 0; i < STREAM_N; i++)
            to[i] = x[i] + (y[i] << 3);
        bench_escape(to);
    }
    return to[12345];
}

const struct bench_case memory_cases[] = {
    {"chase-in", "int", "4096 links, 32 KiB", chase_in_setup, chase_run, bench_mem_end},
    {"chase-out", "int", "4096 links, 64 MiB", chase_out_setup, chase_run, bench_mem_end},
    {"string", "int", "strcpy, strcmp, strchr, strstr, memchr over 4 KiB of lines", string_setup,
     string_run, bench_mem_end},
    {"memcpy", "int", "memcpy() of 16 KiB", copy_setup, memcpy_run, bench_mem_end},
    {"rep", "int", "REP MOVSB of 16 KiB, REP STOSB of 8 KiB", copy_setup, rep_run, bench_mem_end},
    {"stream", "int", "a = b + 8c over 24 MiB", stream_setup, stream_run, bench_mem_end},
    {0},
};
