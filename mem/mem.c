#include "mem/mem.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mem/va.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10 /* linux/memfd.h, since 6.3 */
#endif

/* Room for the code tracking of 4 TiB of RAM; untouched parts cost nothing. */
#define MEM_PAGES_MAX (1ull << 30)

int mem_init(struct mem *m, struct err *e)
{
    *m = (struct mem){.spaced = true};
    pthread_mutex_init(&m->mark_lock, NULL);
    pthread_mutex_init(&m->split_lock, NULL);
    /* Registering is idempotent and cheap; where the host forbids it, code_mark falls back. */
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    (void)e;
    return 0;
}

static void free_tracking(struct mem *m)
{
    if (m->code_map)
        munmap((void *)m->code_map, m->npages * sizeof(*m->code_map));
    if (m->code_gen)
        munmap((void *)m->code_gen, m->npages * sizeof(*m->code_gen));
    m->code_map = NULL;
    m->code_gen = NULL;
}

void mem_free(struct mem *m)
{
    for (unsigned i = 0; i < m->nregions; i++) {
        munmap(m->region[i].host, m->region[i].size);
        if (m->region[i].fd >= 0)
            close(m->region[i].fd);
    }
    free_tracking(m);
    *m = (struct mem){0};
}

/*
 * Puts a file behind the reserved memory, so that other processes can be given parts of it. Where
 * the host has no such files the memory stays private: -1.
 */
static int put_file(u8 *host, u64 size)
{
    struct rlimit most;
    if (getrlimit(RLIMIT_FSIZE, &most) || most.rlim_cur < size)
        return -1; /* a file that is longer costs a signal */
    int fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_EXEC);
    if (fd < 0)
        fd = memfd_create("guest-ram", MFD_CLOEXEC); /* before Linux 6.3 */
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)size) ||
        mmap(host, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) ==
            MAP_FAILED) {
        close(fd);
        return -1;
    }
    return fd;
}

void mem_discard(u8 *host, u64 len)
{
    if (madvise(host, len, MADV_REMOVE)) /* shared mappings only; private ones: */
        madvise(host, len, MADV_DONTNEED);
}

int mem_add_ram(struct mem *m, gpa_t gpa, u64 size, bool rom, struct err *e)
{
    assert(!(gpa & PAGE_MASK) && !(size & PAGE_MASK) && size);
    u64 pages = size >> PAGE_SHIFT;
    if (m->nregions == MEM_REGIONS_MAX || m->npages + pages > MEM_PAGES_MAX || gpa + size < gpa)
        return err_set(e, "no room for %llu MiB of guest memory at %#llx; use less --memory",
                       (unsigned long long)(size >> 20), (unsigned long long)gpa);
    for (unsigned i = 0; i < m->nregions; i++) {
        const struct mem_region *r = &m->region[i];
        if (gpa < r->gpa + r->size && r->gpa < gpa + size)
            return err_set(e, "guest memory at %#llx overlaps that at %#llx",
                           (unsigned long long)gpa, (unsigned long long)r->gpa);
    }

    bool spaced;
    u8 *host = va_reserve(size, PROT_READ | PROT_WRITE, &spaced);
    u64 npages = m->npages + pages;
    void *map = reserve_memory(npages * sizeof(*m->code_map));
    void *gen = reserve_memory(npages * sizeof(*m->code_gen));
    if (!host || !map || !gen) {
        int saved = errno;
        if (host)
            munmap(host, size);
        if (map)
            munmap(map, npages * sizeof(*m->code_map));
        if (gen)
            munmap(gen, npages * sizeof(*m->code_gen));
        errno = saved;
        return err_errno(e,
                         "cannot reserve %llu MiB of guest memory (use less --memory, or raise "
                         "ulimit -v)",
                         (unsigned long long)(size >> 20));
    }
    free_tracking(m);
    m->spaced = m->spaced && spaced;
    m->code_map = map;
    m->code_gen = gen;
    m->region[m->nregions++] = (struct mem_region){.gpa = gpa,
                                                   .size = size,
                                                   .host = host,
                                                   .page0 = m->npages,
                                                   .fd = rom ? -1 : put_file(host, size),
                                                   .rom = rom};
    m->npages = npages;
    return 0;
}

u64 mem_ram_size(const struct mem *m)
{
    u64 sum = 0;
    for (unsigned i = 0; i < m->nregions; i++)
        sum += m->region[i].rom ? 0 : m->region[i].size;
    return sum;
}

/* The region that holds all of [gpa, gpa+len), or NULL. */
static const struct mem_region *find_range(const struct mem *m, gpa_t gpa, u64 len)
{
    const struct mem_region *r = mem_find(m, gpa);
    return r && len <= r->size - (gpa - r->gpa) ? r : NULL;
}

u8 *mem_range(const struct mem *m, gpa_t gpa, u64 len)
{
    const struct mem_region *r = find_range(m, gpa, len);
    return r && !r->rom ? r->host + (gpa - r->gpa) : NULL;
}

int mem_read(const struct mem *m, gpa_t gpa, void *buf, u64 len)
{
    const struct mem_region *r = find_range(m, gpa, len);
    if (!r)
        return -1;
    memcpy(buf, r->host + (gpa - r->gpa), len);
    return 0;
}

int mem_write(struct mem *m, gpa_t gpa, const void *buf, u64 len)
{
    const struct mem_region *r = find_range(m, gpa, len);
    if (!r || r->rom)
        return -1;
    memcpy(r->host + (gpa - r->gpa), buf, len);
    atomic_thread_fence(memory_order_seq_cst);
    while (len) {
        unsigned off = gpa & PAGE_MASK;
        unsigned n = min_u64(len, PAGE_SIZE - off);
        u64 page = mem_page(r, gpa);
        if (mem_has_code(m, page))
            mem_code_written(m, page, off, n);
        gpa += n;
        len -= n;
    }
    return 0;
}

void mem_fence_all_threads(void)
{
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0)
        return;
    /* Forbidden here (a seccomp filter). mprotect of a touched page makes the kernel interrupt
     * every CPU that runs this process, which is the same fence at a higher price. */
    void *p = reserve_memory(PAGE_SIZE);
    if (!p)
        return;
    *(volatile u8 *)p = 1;
    mprotect(p, PAGE_SIZE, PROT_READ);
    munmap(p, PAGE_SIZE);
}

void mem_code_mark(struct mem *m, u64 page, u64 chunks)
{
    assert(page < m->npages);
    if (!m->shared) {
        if (!atomic_fetch_or(&m->code_map[page], chunks) && m->code_page)
            m->code_page(m->code_page_arg, page);
        return;
    }
    pthread_mutex_lock(&m->mark_lock);
    u64 was = atomic_fetch_or(&m->code_map[page], chunks);
    if ((was & chunks) != chunks)
        mem_fence_all_threads();
    if (!was && m->code_page)
        m->code_page(m->code_page_arg, page);
    pthread_mutex_unlock(&m->mark_lock);
}

bool mem_code_written(struct mem *m, u64 page, unsigned off, unsigned len)
{
    assert(page < m->npages);
    u64 chunks = mem_chunks(off, len);
    if (!(atomic_load(&m->code_map[page]) & chunks))
        return false;
    /* All code of the page goes: clear the whole map, so that data beside it is cheap again. */
    atomic_store(&m->code_map[page], 0);
    atomic_fetch_add(&m->code_gen[page], 1);
    atomic_fetch_add(&m->code_epoch, 1);
    return true;
}
