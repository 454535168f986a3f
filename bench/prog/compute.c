/*
 * compute.c - integer programs of the kind that compilers make.
 */
#include "bench.h"
#include <string.h>

/* --- sieve of Eratosthenes --- */

#define SIEVE_SIZE (64 * 1024)

static const char *sieve_setup(struct bench *b)
{
    return bench_mem(b, SIEVE_SIZE);
}

static u64 sieve_run(struct bench *b, u64 n)
{
    u64 count = 0;
    while (bench_again(b, &n)) {
        u8 *composite = b->mem;
        count = 0;
        memset(composite, 0, SIEVE_SIZE);
        for (u32 i = 2; i < SIEVE_SIZE; i++) {
            if (composite[i])
                continue;
            count++;
            for (u32 k = i + i; k < SIEVE_SIZE; k += i)
                composite[k] = 1;
        }
        bench_escape(composite);
    }
    return count;
}

/* --- hash table: open addressing, insert, look up, remove --- */

#define HASH_SLOTS 4096
#define HASH_KEYS  2500

static const char *hash_setup(struct bench *b)
{
    return bench_mem(b, HASH_SLOTS * 8);
}

static u32 *hash_slot(u32 *table, u32 key)
{
    u32 i = key * 2654435761u >> 20;
    while (table[i * 2] && table[i * 2] != key)
        i = (i + 1) % HASH_SLOTS;
    return table + i * 2;
}

static u64 hash_run(struct bench *b, u64 n)
{
    u64 sum = 0;
    while (bench_again(b, &n)) {
        u32 seed = 1;
        sum = 0;
        memset(b->words, 0, HASH_SLOTS * 8);
        for (u32 i = 0; i < HASH_KEYS; i++) {
            u32 *slot = hash_slot(b->words, bench_rand(&seed) | 1);
            slot[0] = slot[0] ? slot[0] : (seed >> 8 | 1);
            slot[1] += i;
        }
        seed = 1;
        for (u32 i = 0; i < HASH_KEYS; i++)
            sum += hash_slot(b->words, bench_rand(&seed) | 1)[1];
    }
    return sum;
}

/* --- quicksort through a comparator --- */

#define SORT_N 2000

typedef int sort_cmp(const void *a, const void *b);

static int by_value(const void *a, const void *b)
{
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    return (x > y) - (x < y);
}

static void swap(u32 *a, u32 *b)
{
    u32 t = *a;
    *a = *b;
    *b = t;
}

static NOINLINE void quicksort(u32 *v, long lo, long hi, sort_cmp *cmp)
{
    while (lo < hi) {
        u32 pivot = v[lo + (hi - lo) / 2];
        long i = lo, k = hi;
        while (i <= k) {
            while (cmp(&v[i], &pivot) < 0)
                i++;
            while (cmp(&v[k], &pivot) > 0)
                k--;
            if (i <= k)
                swap(&v[i++], &v[k--]);
        }
        quicksort(v, lo, k, cmp);
        lo = i;
    }
}

static const char *sort_setup(struct bench *b)
{
    return bench_mem(b, SORT_N * 4);
}

static u64 sort_run(struct bench *b, u64 n)
{
    sort_cmp *volatile cmp = by_value;
    while (bench_again(b, &n)) {
        u32 seed = 7;
        for (int i = 0; i < SORT_N; i++)
            b->words[i] = bench_rand(&seed);
        quicksort(b->words, 0, SORT_N - 1, cmp);
    }
    return b->words[SORT_N / 3];
}

/* --- a bytecode interpreter: a stack machine that adds up Collatz lengths --- */

enum vm_op { PUSH, LOAD, STORE, ADD, MUL, SHR, AND, LESS, JZ, JMP, HALT };

struct vm_insn {
    u8 op, arg;
};

#define VM_LIMIT 60

static const struct vm_insn vm_program[] = {
    /* i = 1, total = 0 */
    {PUSH, 1},
    {STORE, 0},
    {PUSH, 0},
    {STORE, 2},
    /* 4: x = i */
    {LOAD, 0},
    {STORE, 1},
    /* 6: while 1 < x */
    {PUSH, 1},
    {LOAD, 1},
    {LESS},
    {JZ, 30},
    /* if x is odd, x = 3x + 1 */
    {LOAD, 1},
    {PUSH, 1},
    {AND},
    {JZ, 21},
    {LOAD, 1},
    {PUSH, 3},
    {MUL},
    {PUSH, 1},
    {ADD},
    {STORE, 1},
    {JMP, 25},
    /* 21: else x = x / 2 */
    {LOAD, 1},
    {PUSH, 1},
    {SHR},
    {STORE, 1},
    /* 25: total++ */
    {LOAD, 2},
    {PUSH, 1},
    {ADD},
    {STORE, 2},
    {JMP, 6},
    /* 30: i++, while i < VM_LIMIT */
    {LOAD, 0},
    {PUSH, 1},
    {ADD},
    {STORE, 0},
    {LOAD, 0},
    {PUSH, VM_LIMIT},
    {LESS},
    {JZ, 39},
    {JMP, 4},
    /* 39 */
    {HALT},
};

static NOINLINE u32 interpret(const struct vm_insn *program)
{
    u32 stack[8], var[3] = {0}, *sp = stack;
    for (const struct vm_insn *pc = program;;) {
        struct vm_insn in = *pc++;
        switch ((enum vm_op)in.op) {
        case PUSH:
            *sp++ = in.arg;
            break;
        case LOAD:
            *sp++ = var[in.arg];
            break;
        case STORE:
            var[in.arg] = *--sp;
            break;
        case ADD:
            sp--, sp[-1] += sp[0];
            break;
        case MUL:
            sp--, sp[-1] *= sp[0];
            break;
        case SHR:
            sp--, sp[-1] >>= sp[0];
            break;
        case AND:
            sp--, sp[-1] &= sp[0];
            break;
        case LESS:
            sp--, sp[-1] = sp[-1] < sp[0];
            break;
        case JZ:
            if (!*--sp)
                pc = program + in.arg;
            break;
        case JMP:
            pc = program + in.arg;
            break;
        case HALT:
            return var[2];
        }
    }
}

static u64 bytecode_run(struct bench *b, u64 n)
{
    u64 total = 0;
    while (bench_again(b, &n))
        total = interpret(vm_program);
    return total;
}

/* --- recursion --- */

static NOINLINE u32 fibonacci(u32 n)
{
    u32 below = n < 2 ? n : fibonacci(n - 1);
    __asm__ volatile("" : "+r"(below)); /* no unrolling of the recursion */
    return n < 2 ? below : below + fibonacci(n - 2);
}

static u64 recursion_run(struct bench *b, u64 n)
{
    u64 sum = 0;
    while (bench_again(b, &n))
        sum = fibonacci(16);
    return sum;
}

/* --- virtual calls: shapes of four kinds in no order --- */

struct shape;
struct shape_ops {
    u32 (*area)(const struct shape *s);
    void (*grow)(struct shape *s);
};
struct shape {
    const struct shape_ops *ops;
    u32 w, h;
};

static u32 box_area(const struct shape *s)
{
    return s->w * s->h;
}
static u32 triangle_area(const struct shape *s)
{
    return s->w * s->h / 2;
}
static u32 disc_area(const struct shape *s)
{
    return s->w * s->w * 355 / 113;
}
static u32 line_area(const struct shape *s)
{
    return s->w;
}
static void grow_both(struct shape *s)
{
    s->w++, s->h++;
}
static void grow_wide(struct shape *s)
{
    s->w += 2;
}

static const struct shape_ops shape_kinds[] = {
    {box_area, grow_both},
    {triangle_area, grow_wide},
    {disc_area, grow_wide},
    {line_area, grow_both},
};

#define SHAPES 512

static const char *virtual_setup(struct bench *b)
{
    return bench_mem(b, SHAPES * sizeof(struct shape));
}

static u64 virtual_run(struct bench *b, u64 n)
{
    struct shape *shapes = b->data;
    u64 sum = 0;
    while (bench_again(b, &n)) {
        u32 seed = 3;
        sum = 0;
        for (int i = 0; i < SHAPES; i++)
            shapes[i] = (struct shape){&shape_kinds[bench_rand(&seed) % 4], i, i + 1};
        bench_escape(shapes);
        for (int round = 0; round < 8; round++)
            for (int i = 0; i < SHAPES; i++) {
                sum += shapes[i].ops->area(&shapes[i]);
                shapes[i].ops->grow(&shapes[i]);
            }
    }
    return sum;
}

const struct bench_case compute_cases[] = {
    {"sieve", "int", "primes below 65536", sieve_setup, sieve_run, bench_mem_end},
    {"hash", "int", "2500 insertions and look-ups, open addressing", hash_setup, hash_run,
     bench_mem_end},
    {"qsort", "int", "2000 numbers through a comparator", sort_setup, sort_run, bench_mem_end},
    {"bytecode", "int", "a bytecode program of some 40,000 steps", NULL, bytecode_run, NULL},
    {"recursion", "int", "fibonacci(16), 3193 calls", NULL, recursion_run, NULL},
    {"virtual", "int", "8192 calls through tables, four kinds in no order", virtual_setup,
     virtual_run, bench_mem_end},
    {0},
};
