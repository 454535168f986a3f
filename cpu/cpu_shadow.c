/*
 * cpu_shadow.c - filling and dropping the entries of the shadow page table.
 */
#include "cpu/cpu_shadow.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "cpu/cpu_mem.h"
#include "cpu/cpu_paging.h"

#define TABLE_PAGES (SHADOW_SIZE / PAGE_SIZE)

int cpu_shadow_init(struct cpu *c, struct err *e)
{
    if (!c->spaced || !c->mem->spaced)
        return err_set(e,
                       "the translator finds no host addresses for the guest's memory (too much of "
                       "it, or a sanitizer build); use --engine interp");
    struct shadow *s = reserve_memory(sizeof(*s));
    if (!s)
        return err_errno(e, "cannot allocate the shadow page table");
    c->shadow_table = s;
    s->table = cpu_window(c);
    s->npages = c->mem->npages;
    s->writer = reserve_memory(max_u64(s->npages, 1) * sizeof(*s->writer));
    s->touched = reserve_memory(TABLE_PAGES / 8);
    s->touched_max = 1024 + (unsigned)(s->npages / 128);
    if (!s->writer || !s->touched ||
        mprotect((void *)s->table, SHADOW_SIZE, PROT_READ | PROT_WRITE)) {
        err_errno(e, "cannot allocate the shadow page table");
        cpu_shadow_free(c);
        return -1;
    }
    madvise((void *)s->table, SHADOW_SIZE, MADV_NOHUGEPAGE);
    return 0;
}

void cpu_shadow_free(struct cpu *c)
{
    struct shadow *s = c->shadow_table;
    if (!s)
        return;
    if (s->writer)
        munmap((void *)s->writer, max_u64(s->npages, 1) * sizeof(*s->writer));
    if (s->touched)
        munmap(s->touched, TABLE_PAGES / 8);
    munmap(s, sizeof(*s));
    c->shadow_table = NULL;
}

static inline _Atomic u64 *entry(const struct shadow *s, u64 page, unsigned kind)
{
    return &s->table[shadow_slot(page << PAGE_SHIFT, kind)];
}

static inline void put(struct shadow *s, u64 page, unsigned kind, u64 val)
{
    u32 slot = shadow_slot(page << PAGE_SHIFT, kind), host = slot >> (PAGE_SHIFT - 3);
    if (unlikely(!(s->touched[host >> 6] >> (host & 63) & 1))) {
        s->touched[host >> 6] |= 1ull << (host & 63);
        s->ntouched++;
    }
    atomic_store_explicit(&s->table[slot], val, memory_order_relaxed);
}

static inline void clear(const struct shadow *s, u64 page, unsigned kind)
{
    atomic_store_explicit(entry(s, page, kind), 0, memory_order_relaxed);
}

/* --- dropping --- */

static void clear_both(const struct shadow *s, unsigned mode, u64 page)
{
    clear(s, page, shadow_kind(mode, false));
    clear(s, page, shadow_kind(mode, true));
}

/* All that was filled from number `from` on. */
static void flush_from(struct shadow *s, unsigned mode, unsigned from)
{
    for (unsigned i = from; i < s->n[mode]; i++)
        clear_both(s, mode, s->filled[mode][i].page);
    s->n[mode] = from;
    if (s->nglobal[mode] > from)
        s->nglobal[mode] = from;
}

/* Of the large page that la_page is in, as far as the bits that were kept tell: too many is
 * harmless. They stay listed. */
static void flush_large(const struct shadow *s, unsigned mode, u64 la_page)
{
    for (unsigned i = 0; i < s->n[mode]; i++) {
        const struct shadow_fill *f = &s->filled[mode][i];
        unsigned bits = (f->meta & (TLB_GLOBAL - 1)) - PAGE_SHIFT;
        if (((f->page ^ la_page) & (SHADOW_SLOTS - 1)) >> bits == 0)
            clear_both(s, mode, f->page);
    }
}

/* Gives the host back what a long life has touched of the table. */
static void release(struct shadow *s)
{
    for (unsigned m = 0; m < SHADOW_MODES; m++)
        flush_from(s, m, 0);
    for (u64 w = 0; w < TABLE_PAGES / 64; w++) {
        if (!s->touched[w])
            continue;
        madvise((u8 *)s->table + w * 64 * PAGE_SIZE, 64 * PAGE_SIZE, MADV_DONTNEED);
        s->touched[w] = 0;
    }
    s->ntouched = 0;
}

void cpu_shadow_flush(struct cpu *c, enum shadow_scope scope, gva_t la)
{
    struct shadow *s = c->shadow_table;
    s->flushes++;
    bool large = scope == SHADOW_PAGE && cpu_tlb_large_seen(c, la);
    for (unsigned m = 0; m < SHADOW_MODES; m++) {
        if (scope != SHADOW_PAGE)
            flush_from(s, m, scope == SHADOW_ALL ? 0 : s->nglobal[m]);
        else if (large)
            flush_large(s, m, la >> PAGE_SHIFT);
        else
            clear_both(s, m, la >> PAGE_SHIFT);
    }
    if (unlikely(s->ntouched > s->touched_max))
        release(s);
}

/* --- filling --- */

static void list(struct shadow *s, enum tlb_mode m, u64 page, u8 meta)
{
    if (s->n[m] == SHADOW_FILLED)
        flush_from(s, m, 0);
    struct shadow_fill *f = s->filled[m], *to = &f[s->n[m]++];
    if (meta & TLB_GLOBAL) {
        *to = f[s->nglobal[m]];
        to = &f[s->nglobal[m]++];
    }
    *to = (struct shadow_fill){.page = (u32)page & (SHADOW_SLOTS - 1), .meta = meta};
}

/* An entry that leads elsewhere was another page's, which may have been global where this one is
 * not: both are listed. */
static void fill(struct cpu *c, enum tlb_mode m, u64 la, const struct tlb_entry *t, u8 meta)
{
    struct shadow *s = c->shadow_table;
    u64 page = la >> PAGE_SHIFT,
        was = atomic_load_explicit(entry(s, page, shadow_kind(m, false)), memory_order_relaxed);
    if (was != t->addend) {
        clear(s, page, shadow_kind(m, true));
        list(s, m, page, meta);
    }
    put(s, page, shadow_kind(m, false), t->addend);
}

static void fill_write(struct cpu *c, enum tlb_mode m, u64 la, const struct tlb_entry *t)
{
    struct shadow *s = c->shadow_table;
    u32 page = (u32)(la >> PAGE_SHIFT) & (SHADOW_SLOTS - 1);
    _Atomic u32 *w = &s->writer[t->code - c->mem->code_map];
    u32 was = atomic_load_explicit(w, memory_order_relaxed);
    if (was != page + 1)
        atomic_store_explicit(w, was ? SHADOW_SEVERAL : page + 1, memory_order_relaxed);
    put(s, la >> PAGE_SHIFT, shadow_kind(m, true), t->addend);
}

bool cpu_shadow_fill(struct cpu *c, gva_t la, unsigned size, bool write, bool walk)
{
    enum tlb_mode m = (enum tlb_mode)((c->tlb - c->tlbs[0]) >> TLB_BITS);
    gva_t base = la & ~PAGE_MASK;
    struct tlb_entry *t = cpu_tlb_at(c, la);
    if (m == TLB_STRICT)
        return false;
    if ((write ? t->wr : t->rd) != base && walk)
        cpu_ptr_slow(c, la, size, write);
    if ((write ? t->wr : t->rd) != base || !cpu_in_page(la, size))
        return false;
    if (write && atomic_load(t->code))
        return false;
    struct shadow *s = c->shadow_table;
    s->fills++;
    fill(c, m, la, t, c->tlb_index[m].meta[tlb_slot(la)]);
    if (t->wr != base || atomic_load(t->code))
        return true;
    fill_write(c, m, la, t);
    /* Code may have been decoded from it meanwhile: either we see it, or we are seen (mem.h). */
    atomic_thread_fence(memory_order_seq_cst);
    if (likely(!atomic_load(t->code)))
        return true;
    clear(s, la >> PAGE_SHIFT, shadow_kind(m, true));
    return !write;
}

/* --- other CPUs --- */

static void clear_writers(struct shadow *s)
{
    for (unsigned m = 0; m < SHADOW_MODES; m++)
        for (unsigned i = 0; i < s->n[m]; i++)
            clear(s, s->filled[m][i].page, shadow_kind(m, true));
}

bool cpu_shadow_drop_writer(struct cpu *c, u64 page, bool own)
{
    struct shadow *s = c->shadow_table;
    u32 w = atomic_exchange(&s->writer[page], 0);
    if (!w)
        return false;
    if (w != SHADOW_SEVERAL) {
        for (unsigned m = 0; m < SHADOW_MODES; m++)
            clear(s, w - 1, shadow_kind(m, true));
    } else if (own) {
        clear_writers(s);
    } else {
        atomic_store(&s->drop_writers, true);
    }
    return true;
}

void cpu_shadow_catch_up(struct cpu *c)
{
    if (unlikely(atomic_load_explicit(&c->shadow_table->drop_writers, memory_order_relaxed)) &&
        atomic_exchange(&c->shadow_table->drop_writers, false))
        clear_writers(c->shadow_table);
}
