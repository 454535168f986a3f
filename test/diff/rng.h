/* rng.h - pseudo-random numbers by a seed (splitmix64), and values that instructions find hard. */
#ifndef POPF_DIFF_RNG_H
#define POPF_DIFF_RNG_H

#include "base/base.h"

struct rng {
    u64 s;
};

static inline u64 rnd(struct rng *r)
{
    u64 z = r->s += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* 0..n-1 */
static inline u32 pick(struct rng *r, u32 n)
{
    return (u32)((rnd(r) >> 32) * n >> 32);
}

static inline bool one_in(struct rng *r, u32 n)
{
    return pick(r, n) == 0;
}

/* 0, 1, -1, the edges of all widths, single bits, small numbers, anything. */
static inline u64 rnd_value(struct rng *r)
{
    static const u64 edges[] = {0,
                                1,
                                ~0ull,
                                0x7f,
                                0x80,
                                0xff,
                                0x7fff,
                                0x8000,
                                0xffff,
                                0x7fffffff,
                                0x80000000,
                                0xffffffff,
                                0x7fffffffffffffff,
                                0x8000000000000000,
                                0xffffffff80000000,
                                0x5555555555555555};
    u64 v = rnd(r);
    switch (v >> 60) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        return edges[v % ARRAY_SIZE(edges)];
    case 5:
        return 1ull << (v & 63);
    case 6:
    case 7:
        return v & 0xff;
    case 8:
        return (u64)(s64)(s8)v;
    case 9:
        return v & 0xffffffff;
    default:
        return rnd(r);
    }
}

#endif
