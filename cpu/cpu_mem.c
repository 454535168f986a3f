/*
 * cpu_mem.c - guest memory beyond the inline fast paths: TLB misses, page crossings, MMIO, ROM,
 * watched pages, alignment checks.
 */
#include "cpu/cpu_mem.h"

#include "cpu/cpu_event.h"
#include "cpu/cpu_paging.h"

/* One page as an access finds it. host and code are NULL where the bytes go through the world. */
struct page {
    u8 *host; /* of the page's start */
    _Atomic u64 *code;
    gpa_t gpa; /* likewise */
};

static inline enum tlb_mode current_mode(const struct cpu *c)
{
    return (enum tlb_mode)((c->tlb - c->tlbs[0]) >> TLB_BITS);
}

/* Supervisor whatever CPL says; SMAP applies whatever EFLAGS.AC says (SDM vol. 3A, 4.6.1). */
static inline enum tlb_mode system_mode(const struct cpu *c)
{
    return c->cr4 & CR4_SMAP ? TLB_KERNEL_SMAP : TLB_KERNEL;
}

/* --- checks --- */

static NORETURN void throw_noncanonical(struct cpu *c)
{
    c->exc =
        (struct cpu_exc){.pending = true, .vec = EXC_GP, .has_err = true, .noncanonical = true};
    cpu_unwind(c);
}

static inline void check_canonical(struct cpu *c, gva_t la, unsigned size)
{
    /* The last byte too; from the top of the address space it wraps to 0, which is allowed. */
    if (unlikely(!x86_canonical(la) || !x86_canonical(la + size - 1)))
        throw_noncanonical(c);
}

/* SDM vol. 3A, table 6-7. Vector operands of 16 bytes and more are not checked, as on real CPUs
 * (instructions that want alignment check it themselves). */
static void check_aligned(struct cpu *c, gva_t la, unsigned size)
{
    static const u8 mask[] = {[2] = 1, [4] = 3, [6] = 3, [8] = 7, [10] = 7};
    if (size < ARRAY_SIZE(mask) && la & mask[size])
        cpu_throw(c, EXC_AC, 0);
}

static inline void check_access(struct cpu *c, enum tlb_mode m, gva_t la, unsigned size)
{
    check_canonical(c, la, size);
    if (unlikely(m == TLB_STRICT))
        check_aligned(c, la, size);
}

static inline bool watching(const struct cpu *c)
{
    return unlikely(c->dr[7] & 0xff || c->debug);
}

static inline void note_watch(struct cpu *c, gva_t la, unsigned size, bool write)
{
    if (watching(c))
        cpu_note_data_breakpoint(c, la, size, write);
}

static NORETURN void throw_segment(struct cpu *c, unsigned seg)
{
    cpu_throw(c, seg == SS ? EXC_SS : EXC_GP, 0);
}

static bool type_allows(u32 attr, bool write)
{
    if (attr & SEG_CODE)
        return !write && attr & SEG_READABLE;
    return !write || attr & SEG_WRITABLE;
}

void cpu_seg_check(struct cpu *c, unsigned seg, u64 ea, unsigned size, bool write)
{
    const struct seg *s = &c->seg[seg];
    if (c->mode == X86_MODE64 || seg == X86_SEG_FLAT)
        return; /* no limits; canonicality is checked with the page */
    u64 last = ea + size - 1;
    bool down = false;
    if (!cpu_realish(c)) {
        if (s->attr & SEG_UNUSABLE || !type_allows(s->attr, write))
            throw_segment(c, seg);
        down = !(s->attr & SEG_CODE) && s->attr & SEG_EXPDOWN;
    }
    /* A wrap round 64 KiB is beyond the limit, too; one round 4 GiB only if the limit is lower. */
    u64 max = down ? (s->attr & SEG_DB ? 0xffffffffull : 0xffffull) : s->limit;
    if (!down && max == UINT32_MAX)
        return;
    if (last > max || (down && ea <= s->limit))
        throw_segment(c, seg);
}

/* --- from a linear address to its page --- */

static inline u32 walk_access(enum tlb_mode m, bool write)
{
    static const u32 by_mode[TLB_MODES] = {/* ORDER TLB_MODE */
                                           [TLB_KERNEL_SMAP] = WALK_SMAP,
                                           [TLB_USER] = PF_U,
                                           [TLB_STRICT] = PF_U};
    return by_mode[m] | (write ? PF_W : 0);
}

static inline void fill(struct cpu *c, enum tlb_mode m, gva_t la, const struct walk *w,
                        const struct page *pg, bool rom)
{
    unsigned slot = tlb_slot(la);
    struct tlb_entry *t = &c->tlbs[m][slot];
    cpu_tlb_note(c, &c->tlb_index[m], slot, la, w->meta);
    u64 base = la & ~PAGE_MASK;
    t->rd = base;
    t->wr = w->writable && !rom ? base : TLB_NONE;
    t->addend = (u64)pg->host - base;
    t->code = pg->code;
}

/*
 * The page of la for an access of one kind; throws #PF. The TLB learns it unless accesses to it
 * must be seen: alignment checks, watched pages, MMIO. A write to ROM finds no host page.
 */
static void find_page_slow(struct cpu *c, enum tlb_mode m, gva_t la, bool write, struct page *pg)
{
    struct walk w;
    if (unlikely(!cpu_walk(c, la, walk_access(m, write), &w)))
        cpu_throw_pf(c, la, w.err);
    pg->gpa = w.gpa & ~PAGE_MASK;
    const struct mem_region *r = mem_find(c->mem, w.gpa);
    if (unlikely(r == NULL || (write && r->rom))) {
        pg->host = NULL;
        pg->code = NULL;
        return;
    }
    pg->host = r->host + (pg->gpa - r->gpa);
    pg->code = &c->mem->code_map[mem_page(r, pg->gpa)];
    if (unlikely(m == TLB_STRICT || (watching(c) && cpu_page_watched(c, la & ~PAGE_MASK))))
        return;
    fill(c, m, la, &w, pg, r->rom);
}

static inline void find_page(struct cpu *c, enum tlb_mode m, gva_t la, bool write, struct page *pg)
{
    const struct tlb_entry *t = &c->tlbs[m][tlb_slot(la)];
    gva_t base = la & ~PAGE_MASK;
    if ((write ? t->wr : t->rd) == base) {
        pg->host = (u8 *)(base + t->addend);
        pg->code = t->code;
        pg->gpa = 0; /* needed for MMIO only */
        return;
    }
    find_page_slow(c, m, la, write, pg);
}

/* The start of the page after la's; 32-bit addresses wrap. */
static inline gva_t next_page(const struct cpu *c, gva_t la)
{
    gva_t next = (la & ~PAGE_MASK) + PAGE_SIZE;
    return cpu_long(c) && la > 0xffffffff ? next : next & c->la_mask;
}

/* --- bytes of a page --- */

/* The largest naturally aligned piece at gpa of at most `size` bytes: 1, 2, 4 or 8. */
static unsigned mmio_piece(gpa_t gpa, unsigned size)
{
    unsigned n = 8;
    while (n > size || gpa & (n - 1))
        n >>= 1;
    return n;
}

static void mmio_read(struct cpu *c, gpa_t gpa, u8 *buf, unsigned size)
{
    cpu_leave(c);
    while (size) {
        unsigned n = mmio_piece(gpa, size);
        u64 v = c->world->mmio_read(c, gpa, n);
        cpu_copy(buf, &v, n);
        buf += n;
        gpa += n;
        size -= n;
    }
}

static void mmio_write(struct cpu *c, gpa_t gpa, const u8 *buf, unsigned size)
{
    cpu_leave(c);
    c->cr8_known = 0; /* it might be the local APIC's */
    while (size) {
        unsigned n = mmio_piece(gpa, size);
        u64 v = 0;
        cpu_copy(&v, buf, n);
        c->world->mmio_write(c, gpa, n, v);
        buf += n;
        gpa += n;
        size -= n;
    }
}

/* RAM is read and written by one host access where the guest makes one: other CPUs look on. */
static inline void ram_read(const u8 *p, void *buf, unsigned size)
{
    switch (size) {
    case 1:
        *(u8_any *)buf = *(const volatile u8_any *)p;
        break;
    case 2:
        *(u16_any *)buf = *(const volatile u16_any *)p;
        break;
    case 4:
        *(u32_any *)buf = *(const volatile u32_any *)p;
        break;
    case 8:
        *(u64_any *)buf = *(const volatile u64_any *)p;
        break;
    default:
        cpu_copy(buf, p, size);
    }
}

static inline void ram_write(u8 *p, const void *buf, unsigned size)
{
    switch (size) {
    case 1:
        *(volatile u8_any *)p = *(const u8_any *)buf;
        break;
    case 2:
        *(volatile u16_any *)p = *(const u16_any *)buf;
        break;
    case 4:
        *(volatile u32_any *)p = *(const u32_any *)buf;
        break;
    case 8:
        *(volatile u64_any *)p = *(const u64_any *)buf;
        break;
    default:
        cpu_copy(p, buf, size);
    }
}

static inline void page_read(struct cpu *c, const struct page *pg, unsigned off, void *buf,
                             unsigned size)
{
    if (likely(pg->host != NULL))
        ram_read(pg->host + off, buf, size);
    else
        mmio_read(c, pg->gpa + off, buf, size);
}

static inline void page_write(struct cpu *c, const struct page *pg, unsigned off, const void *buf,
                              unsigned size)
{
    if (likely(pg->host != NULL)) {
        ram_write(pg->host + off, buf, size);
        cpu_wrote(c, pg->code, off, size);
    } else {
        mmio_write(c, pg->gpa + off, buf, size);
    }
}

/* --- accesses --- */

static void read_any(struct cpu *c, enum tlb_mode m, gva_t la, void *buf, unsigned size)
{
    struct page pg, next;
    check_access(c, m, la, size);
    unsigned off = la & PAGE_MASK;
    find_page(c, m, la, false, &pg);
    if (likely(cpu_in_page(la, size))) {
        page_read(c, &pg, off, buf, size);
    } else {
        unsigned first = PAGE_SIZE - off;
        find_page(c, m, next_page(c, la), false, &next);
        page_read(c, &pg, off, buf, first);
        page_read(c, &next, 0, (u8 *)buf + first, size - first);
    }
}

static void write_any(struct cpu *c, enum tlb_mode m, gva_t la, const void *buf, unsigned size)
{
    struct page pg, next;
    check_access(c, m, la, size);
    unsigned off = la & PAGE_MASK;
    find_page(c, m, la, true, &pg);
    if (likely(cpu_in_page(la, size))) {
        page_write(c, &pg, off, buf, size);
    } else {
        unsigned first = PAGE_SIZE - off;
        find_page(c, m, next_page(c, la), true, &next);
        page_write(c, &pg, off, buf, first);
        page_write(c, &next, 0, (const u8 *)buf + first, size - first);
    }
}

void cpu_read_slow(struct cpu *c, gva_t la, void *buf, unsigned size)
{
    read_any(c, current_mode(c), la, buf, size);
    note_watch(c, la, size, false);
}

void cpu_write_slow(struct cpu *c, gva_t la, const void *buf, unsigned size)
{
    write_any(c, current_mode(c), la, buf, size);
    note_watch(c, la, size, true);
}

u64 cpu_sys_read(struct cpu *c, gva_t la, unsigned size)
{
    u64 v = 0;
    read_any(c, system_mode(c), cpu_long(c) ? la : (u32)la, &v, size);
    return v;
}

void cpu_sys_write(struct cpu *c, gva_t la, unsigned size, u64 val)
{
    write_any(c, system_mode(c), cpu_long(c) ? la : (u32)la, &val, size);
}

/*
 * A pointer is only given if the current TLB holds the page, so that the caller finds in its entry
 * what cpu_wrote() needs.
 */
u8 *cpu_ptr_slow(struct cpu *c, gva_t la, unsigned size, bool write)
{
    enum tlb_mode m = current_mode(c);
    struct page pg;
    check_access(c, m, la, size);
    find_page(c, m, la, write, &pg);
    if (!cpu_in_page(la, size)) {
        find_page(c, m, next_page(c, la), write, &pg);
        return NULL;
    }
    if (!pg.host || (write ? cpu_tlb_at(c, la)->wr : cpu_tlb_at(c, la)->rd) != (la & ~PAGE_MASK))
        return NULL;
    return pg.host + (la & PAGE_MASK);
}

void cpu_wrote_slow(struct cpu *c, _Atomic u64 *code, gva_t la, unsigned size)
{
    if (mem_code_written(c->mem, code - c->mem->code_map, la & PAGE_MASK, size))
        c->code_stale = true;
}

/* --- read-modify-write --- */

static void rmw_copy_in(struct cpu *c, struct cpu_rmw *m, const struct page pg[2])
{
    unsigned off = m->la & PAGE_MASK, first = min_u64(m->size, PAGE_SIZE - off);
    for (unsigned i = 0; i < 2; i++) {
        unsigned at = i ? first : 0, n = i ? m->size - first : first;
        if (!n)
            continue;
        m->gpa[i] = pg[i].gpa + (i ? 0 : off);
        u8 *p = mem_ptr(c->mem, m->gpa[i]); /* ROM can be read */
        if (p)
            ram_read(p, m->bounce + at, n);
        else
            mmio_read(c, m->gpa[i], m->bounce + at, n);
    }
}

void cpu_rmw_begin_slow(struct cpu *c, struct cpu_rmw *m, bool lock)
{
    enum tlb_mode tm = current_mode(c);
    bool crosses = !cpu_in_page(m->la, m->size);
    struct page pg[2];
    check_access(c, tm, m->la, m->size);
    /* Past the TLB, which does not know guest-physical addresses. */
    find_page_slow(c, tm, m->la, true, &pg[0]);
    if (crosses)
        find_page_slow(c, tm, next_page(c, m->la), true, &pg[1]);
    note_watch(c, m->la, m->size, true);
    if (!crosses && pg[0].host) {
        m->p = pg[0].host + (m->la & PAGE_MASK);
        m->code = pg[0].code;
        return;
    }
    m->p = m->bounce;
    m->code = NULL;
    m->locked = lock;
    if (lock) {
        cpu_leave(c);
        pthread_mutex_lock(&c->mem->split_lock);
    }
    rmw_copy_in(c, m, pg);
}

/* By guest-physical address: a mapping that has gone meanwhile must not make this throw. */
static void rmw_copy_out(struct cpu *c, gpa_t gpa, const u8 *buf, unsigned size)
{
    const struct mem_region *r = mem_find(c->mem, gpa);
    if (!r || r->rom) {
        mmio_write(c, gpa, buf, size);
        return;
    }
    ram_write(r->host + (gpa - r->gpa), buf, size);
    cpu_wrote(c, &c->mem->code_map[mem_page(r, gpa)], gpa, size);
}

void cpu_rmw_end_slow(struct cpu *c, struct cpu_rmw *m)
{
    unsigned first = min_u64(m->size, PAGE_SIZE - (m->la & PAGE_MASK));
    rmw_copy_out(c, m->gpa[0], m->bounce, first);
    if (first < m->size)
        rmw_copy_out(c, m->gpa[1], m->bounce + first, m->size - first);
    if (m->locked)
        pthread_mutex_unlock(&c->mem->split_lock);
    m->locked = false;
}

/* --- code --- */

static inline u32 fetch_access(const struct cpu *c)
{
    return PF_I | (c->cpl == 3 ? PF_U : 0);
}

static void fill_code(struct cpu *c, struct itlb_entry *t, gva_t la, const struct walk *w,
                      const struct mem_region *r)
{
    unsigned slot = la >> PAGE_SHIFT & (ITLB_SIZE - 1);
    gpa_t gpa = w->gpa & ~PAGE_MASK;
    cpu_tlb_note(c, &c->itlb_index[c->cpl == 3], slot, la, w->meta);
    *t = (struct itlb_entry){.tag = la & ~PAGE_MASK,
                             .host = r->host + (gpa - r->gpa),
                             .gpa = gpa,
                             .page = mem_page(r, gpa)};
}

const struct itlb_entry *cpu_code_page(struct cpu *c, gva_t la)
{
    struct itlb_entry *t = &c->itlb[c->cpl == 3][la >> PAGE_SHIFT & (ITLB_SIZE - 1)];
    u8 *meta = &c->itlb_index[c->cpl == 3].meta[la >> PAGE_SHIFT & (ITLB_SIZE - 1)];
    if (likely(t->tag == (la & ~PAGE_MASK))) {
        cpu_tlb_note_code(c, la, t->gpa, *meta);
        return t;
    }
    struct walk w;
    if (unlikely(!x86_canonical(la)))
        cpu_throw_gp(c, 0);
    if (unlikely(!cpu_walk(c, la, fetch_access(c), &w)))
        cpu_throw_pf(c, la, w.err);
    const struct mem_region *r = mem_find(c->mem, w.gpa);
    if (unlikely(!r))
        return NULL;
    fill_code(c, t, la, &w, r);
    cpu_tlb_note_code(c, la, t->gpa, *meta);
    return t;
}

unsigned cpu_fetch_slow(struct cpu *c, gva_t la, u8 *buf, unsigned size)
{
    const struct itlb_entry *t = cpu_code_page(c, la);
    unsigned n = min_u64(size, PAGE_SIZE - (la & PAGE_MASK));
    if (t) {
        cpu_copy(buf, t->host + (la & PAGE_MASK), n);
        return n;
    }
    struct walk w;
    if (!cpu_walk(c, la, fetch_access(c), &w))
        cpu_throw_pf(c, la, w.err);
    mmio_read(c, w.gpa, buf, n);
    return n;
}

/* --- the monitor's view --- */

bool cpu_translate(struct cpu *c, gva_t la, gpa_t *gpa)
{
    struct walk w;
    if (!cpu_long(c))
        la = (u32)la;
    if (!x86_canonical(la) || !cpu_walk(c, la, WALK_PEEK, &w))
        return false;
    *gpa = w.gpa;
    return true;
}

bool cpu_peek(struct cpu *c, gva_t la, void *buf, unsigned size)
{
    u8 *out = buf;
    while (size) {
        unsigned n = min_u64(size, PAGE_SIZE - (la & PAGE_MASK));
        gpa_t gpa;
        const u8 *p = cpu_translate(c, la, &gpa) ? mem_ptr(c->mem, gpa) : NULL;
        if (!p)
            return false;
        cpu_copy(out, p, n);
        out += n;
        la += n;
        size -= n;
    }
    return true;
}
