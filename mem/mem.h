/*
 * mem.h - guest-physical memory: RAM and ROM, and the tracking of pages that hold decoded code.
 *
 * Everything that is not RAM is MMIO and not known here: mem_ptr() returns NULL for it and the CPU
 * asks its world (cpu.h) instead.
 *
 * Code tracking. Decoded or translated code is kept per guest-physical page, and must go when the
 * bytes change, whoever changes them: any vCPU through any mapping, or a device by DMA. A page has
 *   code_map  one bit per 64-byte chunk from which code was decoded,
 *   code_gen  a generation that cached code remembers and compares.
 * The order makes it exact without a lock (Dekker's, with the fence on one side only):
 *   whoever decodes: takes code_gen; mem_code_mark() sets the bits, then fences *every* thread
 *   (membarrier); then the bytes are read, and cached under the generation taken;
 *   whoever writes: stores the bytes, then reads code_map, and if a bit is set bumps code_gen.
 * Either the store was visible to the decoder, or the writer sees the bit.
 */
#ifndef POPF_MEM_H
#define POPF_MEM_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/base.h"

#define MEM_REGIONS_MAX 16

struct mem_region {
    gpa_t gpa;
    u64 size;  /* bytes, a multiple of 4096 */
    u8 *host;  /* mapped by mem_add_ram(); page-aligned */
    u64 page0; /* index of its first page in code_map and code_gen */
    int fd;    /* of the file that is its memory, from offset 0; -1: it is private to the process */
    bool rom;  /* CPU writes are ignored */
};

struct mem {
    struct mem_region region[MEM_REGIONS_MAX];
    unsigned nregions;
    u64 npages;
    _Atomic u64 *code_map; /* [MEM_PAGES_MAX], reserved lazily */
    _Atomic u32 *code_gen;
    _Atomic u32 code_epoch; /* bumped with any page's code_gen */
    bool shared;            /* more than one thread runs guest code: marking must fence them all */
    /* Held while marking: a bit seen set has been fenced, too. */
    pthread_mutex_t mark_lock;
    /* Told, under mark_lock, that a page gets its first code: whoever lets guest code write to it
     * without looking at code_map must stop before this returns. May be NULL. */
    void (*code_page)(void *arg, u64 page);
    void *code_page_arg;
    bool spaced; /* all regions lie as va.h says */
    /* Held during LOCKed operations that the host cannot do in one access (cpu_mem.h). */
    pthread_mutex_t split_lock;
};

int mem_init(struct mem *m, struct err *e);
void mem_free(struct mem *m);

/*
 * Adds zeroed RAM (or ROM) at [gpa, gpa+size), both multiples of 4096. Pages cost host memory only
 * when touched. Fails when it overlaps another region or the host has no address space for it.
 * Regions are only added before the vCPUs start.
 */
int mem_add_ram(struct mem *m, gpa_t gpa, u64 size, bool rom, struct err *e);

/* Bytes of RAM, ROM not counted. */
u64 mem_ram_size(const struct mem *m);

/* The region that holds gpa, or NULL. */
static inline const struct mem_region *mem_find(const struct mem *m, gpa_t gpa)
{
    for (unsigned i = 0; i < m->nregions; i++)
        if (gpa - m->region[i].gpa < m->region[i].size)
            return &m->region[i];
    return NULL;
}

/*
 * The host address of guest-physical byte gpa, good up to the end of its 4 KiB page, or NULL if it
 * is not RAM or ROM.
 */
static inline u8 *mem_ptr(const struct mem *m, gpa_t gpa)
{
    const struct mem_region *r = mem_find(m, gpa);
    return r ? r->host + (gpa - r->gpa) : NULL;
}

/* Index of gpa's page in code_map and code_gen; gpa must be RAM or ROM. */
static inline u64 mem_page(const struct mem_region *r, gpa_t gpa)
{
    return r->page0 + ((gpa - r->gpa) >> PAGE_SHIFT);
}

/*
 * The host address of all of [gpa, gpa+len), or NULL if a byte of it is not in one region of RAM.
 * For loaders, and for devices that have copied their request's addresses in.
 */
u8 *mem_range(const struct mem *m, gpa_t gpa, u64 len);

/* Gives [host, host+len), whole pages of RAM, back to the host: they read as zeros then. What was
 * decoded from them is the caller's business. */
void mem_discard(u8 *host, u64 len);

/* Copies; return 0, or -1 and copy nothing if part of the range is not RAM (ROM may be read). */
int mem_read(const struct mem *m, gpa_t gpa, void *buf, u64 len);
int mem_write(struct mem *m, gpa_t gpa, const void *buf, u64 len);

/* --- code tracking --- */

/* Bits of the 64-byte chunks that [off, off+len) of a page touches; the range is within the page.
 */
static inline u64 mem_chunks(unsigned off, unsigned len)
{
    unsigned first = off >> 6, last = (off + len - 1) >> 6;
    return (~0ull << first) & (~0ull >> (63 - last));
}

/* Code is about to be decoded from these chunks of the page. Call before reading the bytes. */
void mem_code_mark(struct mem *m, u64 page, u64 chunks);

/* Makes every other thread of the process pass a full memory barrier. */
void mem_fence_all_threads(void);

static inline u32 mem_code_gen(const struct mem *m, u64 page)
{
    return atomic_load_explicit(&m->code_gen[page], memory_order_acquire);
}

/* A store went to [off, off+len) of the page. True if code there has become stale. */
bool mem_code_written(struct mem *m, u64 page, unsigned off, unsigned len);

/* The first test of a writer, after its store: is there any code on the page at all? */
static inline bool mem_has_code(const struct mem *m, u64 page)
{
    return atomic_load_explicit(&m->code_map[page], memory_order_relaxed) != 0;
}

#endif
