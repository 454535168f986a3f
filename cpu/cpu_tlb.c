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

/* --- code positions --- */

static void new_map_epoch(struct cpu *c)
{
    c->map_epoch++;
    cpu_fill(&c->code_seen, 0, sizeof(c->code_seen));
}

static void new_user_epoch(struct cpu *c)
{
    if (unlikely(!++c->user_epoch_last)) { /* all have been used */
        c->user_epoch_last = 1;
        for (unsigned n = 0; n < CPU_CONTEXTS; n++)
            c->context[n].user_epoch = 0;
        new_map_epoch(c);
    }
    c->user_epoch = c->user_epoch_last;
}

static void forget_contexts(struct cpu *c)
{
    for (unsigned n = 0; n < CPU_CONTEXTS; n++)
        c->context[n].user_epoch = 0;
}

static inline bool seen(const u64 *map, unsigned bits, u64 n)
{
    n &= (1u << bits) - 1;
    return map[n >> 6] >> (n & 63) & 1;
}

static bool code_seen(const struct cpu *c, gva_t la)
{
    return seen(c->code_seen.page, CODE_SEEN_BITS, la >> PAGE_SHIFT) ||
           seen(c->code_seen.large, CODE_LARGE_BITS, la >> 21);
}

/* A code position of this page is about to be remembered. */
void cpu_tlb_note_code(struct cpu *c, gva_t la, u8 meta)
{
    u64 n = la >> PAGE_SHIFT & ((1u << CODE_SEEN_BITS) - 1);
    c->code_seen.page[n >> 6] |= 1ull << (n & 63);
    if ((meta & (TLB_GLOBAL - 1)) > PAGE_SHIFT) {
        n = la >> 21 & ((1u << CODE_LARGE_BITS) - 1);
        c->code_seen.large[n >> 6] |= 1ull << (n & 63);
    }
    if (!(meta & TLB_GLOBAL) && c->cpl != 3)
        c->code_seen.supervisor = true;
}

/* --- flushes --- */

static void drop_data(struct cpu *c, enum shadow_scope scope, gva_t la)
{
    for (unsigned m = 0; m < TLB_MODES; m++)
        drop(&c->tlb_index[m], c->tlbs[m], sizeof(struct tlb_entry), 2, scope, la);
    for (unsigned u = 0; u < 2; u++)
        drop(&c->itlb_index[u], c->itlb[u], sizeof(struct itlb_entry), 1, scope, la);
    if (c->shadow_table)
        cpu_shadow_flush(c, scope, la);
}

void cpu_tlb_flush(struct cpu *c)
{
    drop_data(c, SHADOW_ALL, 0);
    forget_contexts(c);
    new_user_epoch(c);
    new_map_epoch(c);
}

static void drop_nonglobal(struct cpu *c)
{
    drop_data(c, SHADOW_NONGLOBAL, 0);
    if (c->code_seen.supervisor)
        new_map_epoch(c);
}

void cpu_tlb_flush_nonglobal(struct cpu *c)
{
    drop_nonglobal(c);
    forget_contexts(c);
    new_user_epoch(c);
}

void cpu_tlb_switch(struct cpu *c, u64 cr3, bool noflush)
{
    drop_nonglobal(c);
    struct cpu_context *x = NULL;
    for (unsigned n = 0; n < CPU_CONTEXTS; n++) {
        struct cpu_context *k = &c->context[n];
        if (!((k->cr3 ^ cr3) & CR3_PCID) && (!noflush || k->cr3 != cr3))
            k->user_epoch = 0; /* this PCID's translations go, or are another's */
        if (k->user_epoch && k->cr3 == cr3)
            x = k;
    }
    if (x) {
        c->user_epoch = x->user_epoch;
        return;
    }
    new_user_epoch(c);
    c->context[c->context_next++ % CPU_CONTEXTS] =
        (struct cpu_context){.cr3 = cr3, .user_epoch = c->user_epoch};
}

void cpu_tlb_flush_page(struct cpu *c, gva_t la)
{
    drop_data(c, SHADOW_PAGE, la);
    if (!(la >> 47))
        c->dropped[c->ndropped++ % CPU_DROPPED] = la;
    if (code_seen(c, la))
        new_map_epoch(c);
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
    new_user_epoch(c);
    new_map_epoch(c);
}
