/*
 * code.c - code as data: functions that run once, code that is patched, code that is made.
 */
#include "cold.h"
#include <string.h>
#include <sys/mman.h>

#define RWX (PROT_READ | PROT_WRITE | PROT_EXEC)

/* --- cold: each of 4096 functions is called once, in a copy that nobody has seen before --- */

static u64 cold_round(struct bench *b)
{
    size_t size = __stop_coldfns - __start_coldfns;
    u32 p[16] = {0}, x = 1;
    u64 begin = bench_now_ns();
    u8 *copy = bench_pages(size, RWX);
    memcpy(copy, __start_coldfns, size);
    b->excluded_ns += bench_now_ns() - begin;

    for (int i = 0; i < COLD_FUNCTIONS; i++) {
        const u8 *fn = copy + ((const u8 *)cold_fns[i] - __start_coldfns);
        x = ((cold_fn *)(uintptr_t)fn)(p, x);
    }
    begin = bench_now_ns();
    munmap(copy, size);
    b->excluded_ns += bench_now_ns() - begin;
    return x;
}

static u64 cold_run(struct bench *b, u64 n)
{
    u64 sum = 0;
    for (u64 i = 0; i < n; i++)
        sum = cold_round(b);
    return sum;
}

/* --- patch: the constant of MOV EAX, imm32 is replaced before each call --- */

typedef u32 made_fn(void);

static const char *code_setup(struct bench *b)
{
    b->size = 64 * 1024;
    b->mem = bench_pages(b->size, RWX);
    return NULL;
}

static void emit(u8 *at, u32 value)
{
    at[0] = 0xb8; /* mov eax, value */
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3; /* ret */
}

static u64 patch_run(struct bench *b, u64 n)
{
    u32 sum = 0;
    emit(b->mem, 0);
    for (u64 i = 0; i < n; i++) {
        u32 value = (u32)i;
        memcpy(b->mem + 1, &value, 4);
        bench_escape(b->mem);
        sum += ((made_fn *)b->data)() - (u32)i;
    }
    return sum;
}

/* --- jit: new functions are written one behind the other, called ten times each, for ever --- */

static u64 jit_run(struct bench *b, u64 n)
{
    u32 sum = 0;
    size_t at = 0;
    for (u64 i = 0; i < n; i++) {
        u8 *fn = b->mem + at;
        emit(fn, (u32)i);
        bench_escape(fn);
        for (int k = 0; k < 10; k++)
            sum += ((made_fn *)(uintptr_t)fn)() - (u32)i;
        at = (at + 16) % b->size;
    }
    return sum;
}

const struct bench_case code_cases[] = {
    {"cold", "code", "4096 functions of a dozen instructions, called once", NULL, cold_run, NULL},
    {"patch", "code", "a constant in the code replaced, the code called", code_setup, patch_run,
     bench_mem_end},
    {"jit", "code", "a small function written and called ten times", code_setup, jit_run,
     bench_mem_end},
    {0},
};
