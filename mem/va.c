#include "mem/va.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define OURS      0x234000000000ull /* where we put things: nobody else goes there by himself */
#define OURS_END  0x300000000000ull
#define ROOM      (12ull << 30) /* left to other mappings to grow, on either side */
#define SPANS_MAX 1024

/* Occupied, modulo VA_STRIDE. */
struct span {
    u64 from, to;
};

struct spans {
    struct span s[SPANS_MAX];
    unsigned n;
    bool full;
};

static void add(struct spans *sp, u64 from, u64 to)
{
    if (to - from >= VA_STRIDE || sp->n + 2 > SPANS_MAX) {
        sp->full = true;
        return;
    }
    from %= VA_STRIDE;
    to = (to - 1) % VA_STRIDE + 1;
    if (from < to) {
        sp->s[sp->n++] = (struct span){from, to};
    } else {
        sp->s[sp->n++] = (struct span){from, VA_STRIDE};
        sp->s[sp->n++] = (struct span){0, to};
    }
}

static void add_mapping(struct spans *sp, u64 from, u64 to)
{
    if (from >> 47)
        return; /* vsyscall: cannot be read or written */
    bool ours = from >= OURS && to <= OURS_END;
    u64 room = ours ? PAGE_SIZE : ROOM;
    from = from > room ? from - room : 0;
    /* Neighbours share their room: one span, for one machine has many mappings. */
    struct span *last = sp->n ? &sp->s[sp->n - 1] : NULL;
    u64 start = from % VA_STRIDE;
    if (last && start >= last->from && start <= last->to &&
        start + (to + room - from) <= VA_STRIDE) {
        last->to = max_u64(last->to, start + (to + room - from));
        return;
    }
    add(sp, from, to + room);
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
    return !sp->full;
}

static int by_start(const void *a, const void *b)
{
    u64 x = ((const struct span *)a)->from, y = ((const struct span *)b)->from;
    return x < y ? -1 : x > y;
}

/* Offset modulo VA_STRIDE of the first gap of `size` bytes, or VA_STRIDE. */
static u64 find_gap(struct spans *sp, u64 size)
{
    qsort(sp->s, sp->n, sizeof(sp->s[0]), by_start);
    u64 at = 0;
    for (unsigned i = 0; i < sp->n; i++) {
        if (sp->s[i].from > at && sp->s[i].from - at >= size)
            return at;
        at = max_u64(at, align_up(sp->s[i].to, PAGE_SIZE));
    }
    return VA_STRIDE - at >= size ? at : VA_STRIDE;
}

static void *place(u64 size, int prot)
{
    struct spans *sp = calloc(1, sizeof(*sp));
    if (!sp || size >= VA_STRIDE || !read_mappings(sp)) {
        free(sp);
        return NULL;
    }
    u64 gap = find_gap(sp, size);
    free(sp);
    if (gap == VA_STRIDE)
        return NULL;
    for (u64 at = OURS + gap; at + size <= OURS_END; at += VA_STRIDE) {
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
