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

/* A software TLB: `ntags` tags at the start of each entry of `stride` bytes. */
struct tlb {
    struct tlb_index *x;
    u8 *entry;
    unsigned size, stride, ntags;
};

static void drop_slot(const struct tlb *t, unsigned slot)
{
    u64 *tags = (u64 *)(t->entry + slot * t->stride);
    for (unsigned n = 0; n < t->ntags; n++)
        tags[n] = TLB_NONE;
    t->x->used[slot >> 6] &= ~(1ull << (slot & 63));
    t->x->local[slot >> 6] &= ~(1ull << (slot & 63));
}

/* Of the slots in this map, those in scope. */
static void drop(const struct tlb *t, const u64 *map, enum shadow_scope scope, gva_t la)
{
    for (unsigned w = 0; w < t->size / 64; w++)
        for (u64 bits = map[w]; bits; bits &= bits - 1) {
            unsigned slot = w * 64 + (unsigned)__builtin_ctzll(bits);
            u64 tag = *(u64 *)(t->entry + slot * t->stride);
            if (in_scope(scope, la, tag, t->x->meta[slot]))
                drop_slot(t, slot);
        }
}

/* Pages other than large ones can only be where la leads. */
static void drop_page(const struct tlb *t, unsigned slot, gva_t la, bool large)
{
    if (large)
        drop(t, t->x->used, SHADOW_PAGE, la);
    else if (*(u64 *)(t->entry + slot * t->stride) == (la & ~PAGE_MASK))
        drop_slot(t, slot);
}

static void drop_from(const struct tlb *t, unsigned slot, enum shadow_scope scope, gva_t la,
                      bool large)
{
    if (scope == SHADOW_PAGE)
        drop_page(t, slot, la, large);
    else
        drop(t, scope == SHADOW_ALL ? t->x->used : t->x->local, scope, la);
}

/* --- large pages --- */

static inline bool seen(const u64 *map, unsigned bits, u64 n)
{
    n &= (1u << bits) - 1;
    return map[n >> 6] >> (n & 63) & 1;
}

static inline void see(u64 *map, unsigned bits, u64 n)
{
    n &= (1u << bits) - 1;
    map[n >> 6] |= 1ull << (n & 63);
}

void cpu_tlb_note(struct cpu *c, struct tlb_index *x, unsigned slot, gva_t la, u8 meta)
{
    u64 bit = 1ull << (slot & 63);
    unsigned shift = meta & (TLB_GLOBAL - 1);
    x->used[slot >> 6] |= bit;
    if (meta & TLB_GLOBAL)
        x->local[slot >> 6] &= ~bit;
    else
        x->local[slot >> 6] |= bit;
    x->meta[slot] = meta;
    if (shift > 22)
        see(c->large_seen.huge, HUGE_SEEN_BITS, la >> 30);
    else if (shift > PAGE_SHIFT)
        see(c->large_seen.large, LARGE_SEEN_BITS, la >> 22);
}

bool cpu_tlb_large_seen(const struct cpu *c, gva_t la)
{
    return seen(c->large_seen.large, LARGE_SEEN_BITS, la >> 22) ||
           seen(c->large_seen.huge, HUGE_SEEN_BITS, la >> 30);
}

/* --- code positions --- */

static void new_map_epoch(struct cpu *c)
{
    c->map_epoch++;
    cpu_fill(&c->code_seen, 0, sizeof(c->code_seen));
}

static void forget_contexts(struct cpu *c)
{
    for (unsigned n = 0; n < CPU_CONTEXTS; n++)
        c->context[n].user_epoch = 0;
}

static void new_user_epoch(struct cpu *c)
{
    if (unlikely(!++c->user_epoch_last)) { /* all have been used */
        c->user_epoch_last = 1;
        forget_contexts(c);
        new_map_epoch(c);
    }
    c->user_epoch = c->user_epoch_last;
}

/* --- address spaces --- */

#define NO_CR3 1ull /* whatever is loaded */

static void new_context(struct cpu *c, u64 cr3)
{
    new_user_epoch(c);
    c->context_now = c->context_next++ % CPU_CONTEXTS;
    c->space_epoch = ++c->space_epoch_last;
    c->context[c->context_now] = (struct cpu_context){
        .cr3 = cr3, .user_epoch = c->user_epoch, .space_epoch = c->space_epoch};
}

/* Where pages have been exchanged without INVLPG what was remembered is for the old ones. */
static void note_user_code(struct cpu *c, gva_t la, gpa_t gpa)
{
    struct cpu_context *k = &c->context[c->context_now];
    la &= ~PAGE_MASK;
    gpa &= ~PAGE_MASK;
    unsigned n = 0;
    while (n < min_u64(k->npages, CONTEXT_PAGES) && k->page[n].la != la)
        n++;
    if (n < k->npages && n < CONTEXT_PAGES) {
        if (k->page[n].gpa != gpa)
            k->npages = CONTEXT_PAGES + 1;
        return;
    }
    if (n < CONTEXT_PAGES) {
        k->page[n].la = la;
        k->page[n].gpa = gpa;
    }
    k->npages = (u8)(n + 1);
}

/* The tables of CR3 lead to the context's code as they did; CPL 3 may fetch it. Sets A, as fetching
 * ahead does. */
static bool still_maps(struct cpu *c, const struct cpu_context *k)
{
    struct walk w;
    if (k->npages > CONTEXT_PAGES)
        return false;
    for (unsigned n = 0; n < k->npages; n++)
        if (!cpu_walk(c, k->page[n].la, PF_I | PF_U, &w) || (w.gpa & ~PAGE_MASK) != k->page[n].gpa)
            return false;
    return true;
}

/* CR3 has been loaded, or flushed: on in a context of its that holds, if there is one. */
static void enter_context(struct cpu *c, u64 cr3)
{
    for (unsigned n = 0; n < CPU_CONTEXTS; n++) {
        struct cpu_context *k = &c->context[n];
        if (!k->user_epoch || k->cr3 != cr3)
            continue;
        if (k->unsure && !still_maps(c, k)) {
            k->user_epoch = 0;
            continue;
        }
        if (k->unsure)
            k->space_epoch = ++c->space_epoch_last;
        c->space_epoch = k->space_epoch;
        k->unsure = false;
        c->context_now = (u8)n;
        c->user_epoch = k->user_epoch;
        return;
    }
    new_context(c, cr3);
}

static bool code_seen(const struct cpu *c, gva_t la)
{
    return seen(c->code_seen.page, CODE_SEEN_BITS, la >> PAGE_SHIFT) ||
           seen(c->code_seen.large, CODE_LARGE_BITS, la >> 21);
}

/* A code position of this page is about to be remembered. */
void cpu_tlb_note_code(struct cpu *c, gva_t la, gpa_t gpa, u8 meta)
{
    if (c->cpl == 3)
        note_user_code(c, la, gpa);
    see(c->code_seen.page, CODE_SEEN_BITS, la >> PAGE_SHIFT);
    if ((meta & (TLB_GLOBAL - 1)) > PAGE_SHIFT)
        see(c->code_seen.large, CODE_LARGE_BITS, la >> 21);
    if (!(meta & TLB_GLOBAL) && c->cpl != 3)
        c->code_seen.supervisor = true;
}

/* --- flushes --- */

static void drop_data(struct cpu *c, enum shadow_scope scope, gva_t la)
{
    bool large = scope == SHADOW_PAGE && cpu_tlb_large_seen(c, la);
    for (unsigned m = 0; m < TLB_MODES; m++) {
        struct tlb t = {&c->tlb_index[m], (u8 *)c->tlbs[m], TLB_SIZE, sizeof(struct tlb_entry), 2};
        drop_from(&t, tlb_slot(la), scope, la, large);
    }
    for (unsigned u = 0; u < 2; u++) {
        struct tlb t = {&c->itlb_index[u], (u8 *)c->itlb[u], ITLB_SIZE, sizeof(struct itlb_entry),
                        1};
        drop_from(&t, la >> PAGE_SHIFT & (ITLB_SIZE - 1), scope, la, large);
    }
    if (c->shadow_table)
        cpu_shadow_flush(c, scope, la);
}

void cpu_tlb_flush(struct cpu *c)
{
    drop_data(c, SHADOW_ALL, 0);
    cpu_fill(&c->large_seen, 0, sizeof(c->large_seen));
    forget_contexts(c);
    new_context(c, NO_CR3);
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
    for (unsigned n = 0; n < CPU_CONTEXTS; n++)
        c->context[n].unsure = true;
    enter_context(c, c->cr3);
}

/* The PCID's translations go, or are another's. */
void cpu_tlb_switch(struct cpu *c, u64 cr3, bool noflush)
{
    drop_nonglobal(c);
    for (unsigned n = 0; n < CPU_CONTEXTS; n++) {
        struct cpu_context *k = &c->context[n];
        if (!((k->cr3 ^ cr3) & CR3_PCID) && (!noflush || k->cr3 != cr3))
            k->unsure = true;
    }
    enter_context(c, cr3);
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
        c->tlb_index[m] = (struct tlb_index){0};
        for (unsigned i = 0; i < TLB_SIZE; i++)
            c->tlbs[m][i] = (struct tlb_entry){.rd = TLB_NONE, .wr = TLB_NONE};
    }
    for (unsigned u = 0; u < 2; u++) {
        c->itlb_index[u] = (struct tlb_index){0};
        for (unsigned i = 0; i < ITLB_SIZE; i++)
            c->itlb[u][i] = (struct itlb_entry){.tag = TLB_NONE};
    }
    c->large_seen = (struct large_seen){0};
    new_context(c, NO_CR3);
    new_map_epoch(c);
}
