/*
 * cpu_tlb.c - what drops translations from the software TLBs.
 *
 * A TLB entry holds one 4 KiB page, whatever the size of the guest's page that it comes from, and
 * INVLPG for any address of that page must find them all: tlb_index.meta tells the size.
 */
#include "cpu/cpu_mem.h"
#include "cpu/cpu_paging.h"
#include "cpu/cpu_shadow.h"

static_assert(offsetof(struct tlb_entry, rd) == 0 && offsetof(struct tlb_entry, wr) == 8 &&
                  offsetof(struct itlb_entry, tag) == 0,
              "drop() finds the tags there");

static inline bool in_scope(enum shadow_scope scope, gva_t la, u64 tag, u8 meta)
{
    switch (scope) {
    case SHADOW_ALL:
        return true;
    case SHADOW_NONGLOBAL:
        return !(meta & TLB_GLOBAL);
    default:
        return (tag ^ la) >> (meta & ~TLB_GLOBAL) == 0;
    }
}

/* Empties slots of a table of entries of `stride` bytes that begin with `ntags` tags; true if any.
 */
static bool drop(struct tlb_index *x, void *table, unsigned stride, unsigned ntags,
                 enum shadow_scope scope, gva_t la)
{
    unsigned kept = 0, n = x->n;
    for (unsigned i = 0; i < n; i++) {
        unsigned slot = x->slot[i];
        u64 *tags = (u64 *)((u8 *)table + slot * stride);
        if (!in_scope(scope, la, tags[0], x->meta[slot])) {
            x->slot[kept++] = slot;
            continue;
        }
        for (unsigned t = 0; t < ntags; t++)
            tags[t] = TLB_NONE;
    }
    x->n = kept;
    return kept != n;
}

static void flush(struct cpu *c, enum shadow_scope scope, gva_t la)
{
    bool code = false;
    for (unsigned m = 0; m < TLB_MODES; m++)
        drop(&c->tlb_index[m], c->tlbs[m], sizeof(struct tlb_entry), 2, scope, la);
    for (unsigned u = 0; u < 2; u++)
        code |= drop(&c->itlb_index[u], c->itlb[u], sizeof(struct itlb_entry), 1, scope, la);
    if (c->shadow_table)
        cpu_shadow_flush(c, scope, la);
    if (scope != SHADOW_PAGE || code || c->itlb_evicted)
        c->map_epoch++;
    if (scope != SHADOW_PAGE)
        c->itlb_evicted = false;
}

void cpu_tlb_flush(struct cpu *c)
{
    flush(c, SHADOW_ALL, 0);
}

void cpu_tlb_flush_nonglobal(struct cpu *c)
{
    flush(c, SHADOW_NONGLOBAL, 0);
}

void cpu_tlb_flush_page(struct cpu *c, gva_t la)
{
    flush(c, SHADOW_PAGE, la);
}

void cpu_tlb_init(struct cpu *c)
{
    for (unsigned m = 0; m < TLB_MODES; m++) {
        c->tlb_index[m].n = 0;
        for (unsigned i = 0; i < TLB_SIZE; i++)
            c->tlbs[m][i] = (struct tlb_entry){.rd = TLB_NONE, .wr = TLB_NONE};
    }
    for (unsigned u = 0; u < 2; u++) {
        c->itlb_index[u].n = 0;
        for (unsigned i = 0; i < ITLB_SIZE; i++)
            c->itlb[u][i] = (struct itlb_entry){.tag = TLB_NONE};
    }
    c->map_epoch++;
}
