/*
 * standalone.c - a main() for fuzz targets where there is no libFuzzer: `target [runs] [seed]`
 * calls LLVMFuzzerTestOneInput() with random buffers of varied length. `target -f FILE` replays one
 * input.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define LENGTH_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* xorshift64*, seeded so that every (seed, run) pair can be had again. */
static u64 next(u64 *x)
{
    *x ^= *x >> 12;
    *x ^= *x << 25;
    *x ^= *x >> 27;
    return *x * 0x2545f4914f6cdd1dull;
}

/* Lengths are spread over magnitudes: short inputs find as much as long ones. */
static size_t length(u64 *x)
{
    unsigned magnitude = next(x) % 13;
    return next(x) % ((1u << magnitude) + 1);
}

static void one(u64 seed, unsigned long run)
{
    u64 x = (seed + 1) * 0x9e3779b97f4a7c15ull ^ (run + 1) * 0xbf58476d1ce4e5b9ull;
    x |= x == 0;
    size_t n = length(&x);
    u8 *buf = malloc(n ? n : 1); /* exactly as long as it says, for the sanitizer's sake */
    if (!buf)
        exit(2);
    for (size_t i = 0; i < n; i++)
        buf[i] = next(&x) >> 32;
    LLVMFuzzerTestOneInput(buf, n);
    free(buf);
}

static int replay(const char *path)
{
    static const size_t limit = 1 << 20;
    FILE *f = fopen(path, "rb");
    u8 *buf = malloc(limit);
    if (!f || !buf) {
        perror(path);
        return 2;
    }
    size_t n = fread(buf, 1, limit, f);
    fclose(f);
    u8 *exact = realloc(buf, n ? n : 1);
    LLVMFuzzerTestOneInput(exact ? exact : buf, n);
    free(exact ? exact : buf);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "-f"))
        return replay(argv[2]);
    unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000;
    u64 seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    for (unsigned long i = 0; i < runs; i++)
        one(seed, i);
    printf("%lu runs, seed %llu\n", runs, (unsigned long long)seed);
    return 0;
}
