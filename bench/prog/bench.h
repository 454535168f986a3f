/*
 * bench.h - what a case of popfbench is, and what the cases share.
 *
 * A case does the same piece of work over and over: every operation starts from the same input, so
 * its checksum is the same everywhere, however many operations the clock allows.
 */
#ifndef POPFBENCH_BENCH_H
#define POPFBENCH_BENCH_H

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define N_OF(a)  (sizeof(a) / sizeof((a)[0]))
#define NOINLINE __attribute__((noinline))

struct bench;

struct bench_case {
    const char *name;
    const char *group; /* int, fp, code, sys, smp: table and geometric mean */
    const char *op;    /* what one operation is */
    /* NULL, or why the case cannot run here. */
    const char *(*setup)(struct bench *b);
    /* Performs n operations and returns the checksum of the last. */
    u64 (*run)(struct bench *b, u64 n);
    void (*end)(struct bench *b);
};

/* A running case. */
struct bench {
    const struct bench_case *c;
    const char *busybox; /* path */
    const char *tmp;     /* a folder in a tmpfs */
    u64 excluded_ns;     /* time in run() that does not count */
    union {              /* the case's own */
        u8 *mem;
        u32 *words;
        u64 *quads;
        void *data;
    };
    size_t size; /* bytes in mem */
    int fd[4];
    long n[4];
};

/* Tables end with a case without a name. */
extern const struct bench_case compute_cases[], codec_cases[], memory_cases[], float_cases[],
    code_cases[], sys_cases[], smp_cases[], busybox_cases[];

u64 bench_now_ns(void);

/* Pages that are there (touched), or exit. */
void *bench_pages(size_t size, int prot);
/* Setup and end of cases that have b->mem; NULL on success. */
const char *bench_mem(struct bench *b, size_t size);
void bench_mem_end(struct bench *b);

/* Fills with words of text, about five letters long, 12 to a line. */
void bench_text(u8 *text, size_t size);

/* Ends the program with a message about errno. */
__attribute__((noreturn)) void bench_die(const char *what);

/* A 32-bit linear congruential step; good bits are the upper ones. */
static inline u32 bench_rand(u32 *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* The compiler may assume nothing about what p points at. */
static inline void bench_escape(const void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
}

/* The head of run()'s loop: nothing can be carried from one operation over to the next. */
static inline int bench_again(struct bench *b, u64 *n)
{
    bench_escape(b);
    return (*n)-- != 0;
}

u32 codec_crc32(u32 crc, const u8 *data, size_t size);
/* n rounds of SHA-256 over a block of 64 bytes; the first word of the state. */
u32 codec_sha256_blocks(const u8 block[64], u64 n);

#endif
