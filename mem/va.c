#include "mem/va.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define OURS 0x240000000000ull /* where we put things: nobody else goes there by himself */
/* Of the period: not round, so that addresses made of few bits do not happen to be there. */
#define FIRST     0xb35a7c3000ull
#define OURS_END  0x300000000000ull
#define ROOM      (12ull << 30) /* left to other mappings to grow, on either side */
#define SPANS_MAX 8192
#define SIZE_MOST (128ull << 30)

/* Of the period, in order: where nothing may be put. */
struct span {
    u64 from, to;
};

struct spans {
    struct span s[SPANS_MAX];
    unsigned n;
    bool full;
    u64 from, to; /* the last mapping, with its room: added when it is known not to go on */
};

static void add(struct spans *sp, u64 from, u64 to)
{
    if (to - from >= VA_PERIOD || sp->n + 2 > SPANS_MAX) {
        sp->full = true;
        return;
    }
    from %= VA_PERIOD;
    to = (to - 1) % VA_PERIOD + 1;
    if (from < to) {
        sp->s[sp->n++] = (struct span){from, to};
    } else {
        sp->s[sp->n++] = (struct span){from, VA_PERIOD};
        sp->s[sp->n++] = (struct span){0, to};
    }
}

static void add_last(struct spans *sp)
{
    if (sp->from == sp->to)
        return;
    u64 base = VA_KINDS * VA_PERIOD; /* keeps it positive */
    for (u64 j = 0; j < VA_KINDS; j++) {
        add(sp, base + sp->from + j * VA_STRIDE, base + sp->to + j * VA_STRIDE);
        if (j)
            add(sp, base + sp->from - j * VA_STRIDE, base + sp->to - j * VA_STRIDE);
    }
    sp->from = sp->to = 0;
}

static void add_mapping(struct spans *sp, u64 from, u64 to)
{
    if (from >> 47)
        return; /* vsyscall: cannot be read or written */
    bool ours = from >= OURS && to <= OURS_END;
    u64 room = ours ? PAGE_SIZE : ROOM;
    from = from > room ? from - room : 0;
    to += room;
    if (sp->from != sp->to && from <= sp->to) { /* neighbours share their room */
        sp->to = max_u64(sp->to, to);
        return;
    }
    add_last(sp);
    sp->from = from;
    sp->to = to;
}

static bool read_mappings(struct spans *sp)
{
    FILE *f = fopen("/proc/self/maps", "re");
    if (!f)
        return false;
    char line[512];
    bool whole = true; /* a long line comes in pieces: only its start counts */
    while (fgets(line, sizeof(line), f)) {
        unsigned long long from, to;
        if (whole && sscanf(line, "%llx-%llx", &from, &to) == 2)
            add_mapping(sp, from, to);
        whole = strchr(line, '\n') != NULL;
    }
    fclose(f);
    add_last(sp);
    return !sp->full;
}

static int by_start(const void *a, const void *b)
{
    u64 x = ((const struct span *)a)->from, y = ((const struct span *)b)->from;
    return x < y ? -1 : x > y;
}

/* Where in the period the first gap of `size` bytes is, or VA_PERIOD. */
static u64 find_gap(struct spans *sp, u64 size, u64 from)
{
    qsort(sp->s, sp->n, sizeof(sp->s[0]), by_start);
    u64 at = from;
    for (unsigned i = 0; i < sp->n; i++) {
        if (sp->s[i].from > at && sp->s[i].from - at >= size)
            return at;
        at = max_u64(at, align_up(sp->s[i].to, PAGE_SIZE));
    }
    return VA_PERIOD - at >= size ? at : VA_PERIOD;
}

static void *place(u64 size, int prot)
{
    struct spans *sp = calloc(1, sizeof(*sp));
    if (!sp || size >= SIZE_MOST || !read_mappings(sp)) {
        free(sp);
        return NULL;
    }
    u64 gap = find_gap(sp, size, FIRST);
    if (gap == VA_PERIOD)
        gap = find_gap(sp, size, 0);
    free(sp);
    if (gap == VA_PERIOD)
        return NULL;
    for (u64 at = OURS + gap; at + size <= OURS_END; at += VA_PERIOD) {
        void *p = mmap((void *)at, size, prot,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (p == (void *)at)
            return p;
        if (p != MAP_FAILED)
            munmap(p, size); /* a kernel that does not know the flag */
    }
    return NULL;
}

void *va_reserve(u64 size, int prot, bool *spaced)
{
    void *p = place(size, prot);
    *spaced = p != NULL;
    if (p)
        return p;
    p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}
