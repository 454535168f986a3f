/*
 * direct_map.c - what a space has mapped: filled by its faults, emptied by what would empty a TLB
 * and by code that appears on a page.
 */
#include <string.h>

#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"
#include "cpu/cpu_paging.h"
#include "engine/direct/direct_priv.h"

#define AROUND 16 /* pages, aligned, that come with one that is touched */
#define LARGE  512
#define LOWEST 0x10000 /* below it the host may let nobody map (vm.mmap_min_addr) */

#define CHECKED_MOST 4096 /* mappings: more of them are found anew more cheaply */
#define STALE_MOST   32   /* of them: likewise */

/* --- the record --- */

/* Where the search for a page's slot begins: pages that come together share a cache line. */
static u64 first_slot(u64 la_page)
{
    u64 line = ((la_page >> 4) * 0x9e3779b97f4a7c15ull) >> (64 - MAPPING_HASH + 4);
    return line << 4 | (la_page & 15);
}

/* The slot of the hash that has the page's mapping, or is free for it. */
static u32 *find_slot(const struct space *s, u64 la_page)
{
    u64 n = first_slot(la_page);
    while (s->hash[n] && s->mapping[s->hash[n] - 1].la_page != la_page)
        n = (n + 1) & (BIT(MAPPING_HASH) - 1);
    return &s->hash[n];
}

void mapping_forget(struct space *s, unsigned which)
{
    u64 n = first_slot(s->mapping[which].la_page);
    while (s->hash[n] != which + 1)
        n = (n + 1) & (BIT(MAPPING_HASH) - 1);
    s->hash[n] = 0;
}

static struct mapping *find(const struct space *s, u64 la_page)
{
    u32 n = *find_slot(s, la_page);
    return n ? &s->mapping[n - 1] : NULL;
}

static unsigned rights_of(const struct space *s, u64 la_page)
{
    const struct mapping *m = find(s, la_page);
    return m ? m->rights : 0;
}

static void note(struct space *s, u64 la_page, unsigned rights, u64 page, u32 scan)
{
    u32 *slot = find_slot(s, la_page);
    if (!*slot)
        *slot = ++s->nmappings;
    s->mapping[*slot - 1] = (struct mapping){la_page, (u32)page, rights, scan};
}

static int unmap(struct direct *d, struct space *s, struct mapping *m)
{
    if (!m || !m->rights)
        return 0;
    m->rights = 0;
    return space_unmap(d, s, m->la_page << PAGE_SHIFT, PAGE_SIZE);
}

/* --- what may be mapped --- */

struct target {
    unsigned rights; /* MAP_x that are possible, MAP_EXEC only if it was asked for */
    unsigned shift;  /* of the guest's page */
    bool nx;
    u64 page; /* of mem */
    const struct mem_region *r;
    u64 offset;
};

static struct scan_rules rules_of(const struct direct *d)
{
    const struct cpu *c = d->cpu;
    bool os = c->cr4 & CR4_OSXSAVE;
    return (struct scan_rules){
        .mode64 = c->mode == X86_MODE64,
        .fsgsbase = c->cr4 & CR4_FSGSBASE,
        .avx = os && c->xcr0 == d->offered_xcr0,
        .xstate = os && c->xcr0 == d->host_xcr0,
    };
}

static u8 pack(const struct scan_rules *r)
{
    return (u8)(r->mode64 | r->fsgsbase << 1 | r->xstate << 2 | r->avx << 3);
}

u8 direct_rules(const struct direct *d)
{
    struct scan_rules r = rules_of(d);
    return pack(&r);
}

/* What a verdict on the page is good for, but for struct verdict.behind. */
static u64 verdict_key(const struct direct *d, u64 page, const struct scan_rules *r)
{
    return (u64)pack(r) << 1 | (u64)mem_code_gen(d->cpu->mem, page) << 8 | BIT(63);
}

/* May the page be executed, if need be with breakpoints? */
static bool scan(struct direct *d, gva_t la, u64 page, const u8 *bytes, unsigned entry)
{
    struct cpu *c = d->cpu;
    struct scan_rules rules = rules_of(d);
    struct verdict *v = &d->verdict[page];
    u64 key = verdict_key(d, page, &rules);
    struct scan_page p = {0};
    u8 *behind = p.code + SCAN_BEFORE + PAGE_SIZE;
    mem_code_mark(c->mem, page, ~0ull);
    bool is_known = v->key == key;
    bool there =
        (!is_known || v->crosses) && cpu_peek(c, la + PAGE_SIZE, behind, sizeof(v->behind));
    /* What appears behind it makes check_before() look again. */
    if (!is_known || (there && memcmp(v->behind, behind, sizeof(v->behind)) != 0)) {
        memcpy(p.code + SCAN_BEFORE, bytes, PAGE_SIZE);
        p.has_before = cpu_peek(c, la - SCAN_BEFORE, p.code, SCAN_BEFORE);
        direct_scan(c, &p, &rules, entry, v);
        memcpy(v->behind, behind, sizeof(v->behind));
        v->key = key;
        v->scan = ++d->nscans;
        v->evicted = 0;
    }
    return v->n <= (d->breaks ? BREAKPOINTS : 0);
}

/* Has the page of code been found to be without danger already? Then it is that again, or is looked
 * at once more, for little. */
static bool known_clean(const struct direct *d, u64 page)
{
    struct scan_rules rules = rules_of(d);
    const struct verdict *v = &d->verdict[page];
    return v->key == verdict_key(d, page, &rules) && !v->n;
}

bool direct_is_away(struct direct *d)
{
    struct walk w;
    const struct mem_region *r;
    if (!cpu_walk(d->cpu, d->cpu->reg[X86_SLOT_RIP], WALK_PEEK, &w) ||
        !(r = mem_find(d->cpu->mem, w.gpa)))
        return true;
    struct scan_rules rules = rules_of(d);
    u64 page = mem_page(r, w.gpa);
    const struct verdict *v = &d->verdict[page];
    return v->key == verdict_key(d, page, &rules) && v->n > (d->breaks ? BREAKPOINTS : 0);
}

static void allow_code(struct direct *d, gva_t la, struct target *t, unsigned entry)
{
    if (!t->nx && scan(d, la, t->page, t->r->host + t->offset, entry))
        t->rights |= MAP_EXEC;
}

/* What the guest's tables and what is known of the page allow; false: nothing. `entry`: where in it
 * code is to run, -1: it is data. */
static bool look_up(struct direct *d, struct space *s, gva_t la, s64 entry, struct target *t)
{
    struct cpu *c = d->cpu;
    struct walk w;
    if (la - s->stub < 2 * PAGE_SIZE || la >= TASK_END || !cpu_walk(c, la, WALK_PEEK, &w) ||
        (w.rights & (PTE_U | PTE_A)) != (PTE_U | PTE_A))
        return false;
    const struct mem_region *r = mem_find(c->mem, w.gpa);
    if (!r || r->fd < 0)
        return false;
    u64 page = mem_page(r, w.gpa);
    *t = (struct target){MAP_READ, w.meta, w.rights & PTE_NX,
                         page,     r,      (w.gpa & ~PAGE_MASK) - r->gpa};
    if (w.rights & PTE_W && w.rights & PTE_D) {
        /* Seen by who decodes, or what he decodes is seen here: mem.h. */
        atomic_fetch_or(&s->wrote[page >> 6], BIT(page & 63));
        if (!mem_has_code(c->mem, page))
            t->rights |= MAP_WRITE;
    }
    if (entry >= 0)
        allow_code(d, la, t, (unsigned)entry);
    return true;
}

/* A mapping is as it would be made now. */
static bool is_fresh(const struct direct *d, const struct mapping *m, const struct target *t)
{
    return t->page == m->page && !(m->rights & ~t->rights) &&
           (!(m->rights & MAP_EXEC) || d->verdict[t->page].scan == m->scan);
}

/* --- mapping --- */

/* A run of pages that are mapped by one call. */
struct run {
    gva_t la;
    u64 pages;
    struct target t;
};

static int end_run(struct direct *d, struct space *s, struct run *run)
{
    u64 n = run->pages;
    run->pages = 0;
    if (!n)
        return 0;
    d->stats.mapped += n;
    return space_map(d, s, run->la, n << PAGE_SHIFT, run->t.rights, run->t.r, run->t.offset);
}

static int put(struct direct *d, struct space *s, struct run *run, gva_t la, const struct target *t)
{
    note(s, la >> PAGE_SHIFT, t->rights, t->page, d->verdict[t->page].scan);
    s->large |= t->shift > PAGE_SHIFT;
    u64 bytes = run->pages << PAGE_SHIFT;
    if (run->pages && run->la + bytes == la && run->t.rights == t->rights && run->t.r == t->r &&
        run->t.offset + bytes == t->offset) {
        run->pages++;
        return 0;
    }
    if (end_run(d, s, run))
        return -1;
    *run = (struct run){la, 1, *t};
    return 0;
}

/* The page is not executable any more: its breakpoints are wanted elsewhere. */
static int evict(struct direct *d, struct space *s, gva_t la)
{
    struct mapping *m = find(s, la >> PAGE_SHIFT);
    if (!m || !(m->rights & MAP_EXEC))
        return 0;
    struct verdict *v = &d->verdict[m->page];
    if (++v->evicted > EVICTED_MOST)
        v->n = BREAKPOINTS + 1;
    return unmap(d, s, m);
}

/*
 * The page's instructions that must not run get breakpoints. Where there are too many, all pages
 * that have some make room.
 */
static int guard(struct direct *d, struct space *s, gva_t la, const struct verdict *v)
{
    unsigned kept = 0;
    for (unsigned k = 0; k < s->nbreakpoints; k++) /* it may have been mapped before */
        if ((s->breakpoint[k] & ~PAGE_MASK) != la)
            s->breakpoint[kept++] = s->breakpoint[k];
    if (kept == s->nbreakpoints && !v->n)
        return 0;
    s->nbreakpoints = kept;
    if (s->nbreakpoints + v->n > BREAKPOINTS) {
        for (unsigned k = 0; k < s->nbreakpoints; k++)
            if (evict(d, s, s->breakpoint[k] & ~PAGE_MASK))
                return -1;
        s->nbreakpoints = 0;
    }
    if (v->n > BREAKPOINTS) /* it was in its own way, at another address, once too often */
        return -1;
    for (unsigned k = 0; k < v->n; k++)
        s->breakpoint[s->nbreakpoints++] = la + (u64)v->at[k];
    if (space_break(d, s, s->breakpoint, s->nbreakpoints) == 0)
        return 0;
    d->breaks = false;
    return -1;
}

/* The page before may have an instruction that goes on in this one, and is another now. */
static int check_before(struct direct *d, struct space *s, gva_t la)
{
    struct mapping *m = find(s, (la >> PAGE_SHIFT) - 1);
    struct target t;
    if (!m || !(m->rights & MAP_EXEC) ||
        (look_up(d, s, la - PAGE_SIZE, 0, &t) && is_fresh(d, m, &t)))
        return 0;
    return unmap(d, s, m);
}

/* What is around a page of code: more of it, if it has been looked at; it is when it is run. */
static bool also_code(struct direct *d, struct space *s, gva_t at, struct target *t)
{
    if (rights_of(s, at >> PAGE_SHIFT) & MAP_EXEC || !look_up(d, s, at, -1, t) ||
        !known_clean(d, t->page))
        return false;
    allow_code(d, at, t, 0);
    return t->rights & MAP_EXEC && !d->verdict[t->page].n;
}

static bool also_data(struct direct *d, struct space *s, gva_t at, struct target *t)
{
    return !rights_of(s, at >> PAGE_SHIFT) && look_up(d, s, at, -1, t);
}

/* Maps the page with these rights, and what is around it. */
static int fill(struct direct *d, struct space *s, gva_t la, const struct target *t)
{
    u64 pages = t->shift > PAGE_SHIFT ? LARGE : AROUND;
    gva_t from = la & ~((pages << PAGE_SHIFT) - 1);
    bool code = t->rights & MAP_EXEC;
    struct run run = {0};
    gva_t next = 1;
    if (code && guard(d, s, la, &d->verdict[t->page]))
        return -1;
    for (gva_t at = from; at < from + (pages << PAGE_SHIFT); at += PAGE_SIZE) {
        struct target other = *t;
        if (at != la) {
            if (at < LOWEST || !(code ? also_code : also_data)(d, s, at, &other))
                continue;
            other.rights &= code ? MAP_READ | MAP_EXEC : MAP_READ | MAP_WRITE;
        }
        bool looked_at = at == next; /* the page before, just now */
        next = at + PAGE_SIZE;
        if ((code && !looked_at && check_before(d, s, at)) || put(d, s, &run, at, &other))
            return -1;
    }
    return end_run(d, s, &run);
}

/*
 * The rights that the access at la lacks, as far as can be told: RIP is known, but neither the
 * instruction's length nor what it does. 0: it has them all, or may not have them.
 */
static unsigned wanted(unsigned have, unsigned can, gva_t la, u64 rip)
{
    bool fetch = la >> PAGE_SHIFT == rip >> PAGE_SHIFT;
    bool behind = !(la & PAGE_MASK) && la - rip < 15; /* an instruction that goes on there */
    if (!(have & MAP_EXEC) && can & MAP_EXEC && (fetch || (behind && have)))
        return MAP_READ | MAP_EXEC;
    if (!fetch && !have)
        return can & (MAP_READ | MAP_WRITE);
    if (can & ~have & MAP_WRITE)
        return MAP_READ | MAP_WRITE;
    return 0;
}

/* The access happens: A, and D if it can only have been a write, are set as by the access itself.
 */
static bool access(struct direct *d, struct space *s, gva_t la, u32 how, s64 entry,
                   struct target *t)
{
    struct walk w;
    return cpu_walk(d->cpu, la, PF_U | how, &w) && look_up(d, s, la, entry, t);
}

bool direct_map(struct direct *d, struct space *s, gva_t la, u64 rip, bool ahead)
{
    if (rip != d->fault_rip)
        d->same_rip = 0;
    d->fault_rip = rip;
    if (++d->same_rip > 6 || la >> 47) /* it wants at once what it cannot have at once */
        return false;
    gva_t page = la & ~PAGE_MASK;
    unsigned have = rights_of(s, page >> PAGE_SHIFT);
    bool fetch = page == (rip & ~PAGE_MASK), behind = !(la & PAGE_MASK) && la - rip < 15;
    struct target t;
    s64 entry = fetch ? (s64)(rip & PAGE_MASK) : behind ? 0 : -1;
    bool ok = access(d, s, page, fetch ? PF_I : 0, entry, &t);
    if (ok && !ahead && !wanted(have, t.rights, la, rip) && have & MAP_READ && !fetch && !behind)
        ok = access(d, s, page, PF_W, -1, &t);
    if (!ok)
        return false;
    t.rights = wanted(have, t.rights, la, rip);
    if (!t.rights)
        return false;
    if (s->nmappings + LARGE > MAPPINGS_MAX && space_reset(d, s))
        return false;
    d->stats.faults++;
    return fill(d, s, page, &t) == 0;
}

/* --- unmapping --- */

/* A page of mem may not be written to any more. */
static int drop_writers(struct direct *d, struct space *s, u64 page)
{
    if (!(atomic_load(&s->wrote[page >> 6]) >> (page & 63) & 1))
        return 0;
    for (struct mapping *m = s->mapping; m < s->mapping + s->nmappings; m++)
        if (m->page == page && m->rights & MAP_WRITE && unmap(d, s, m))
            return -1;
    return 0;
}

static int heed_drops(struct direct *d)
{
    pthread_mutex_lock(&d->lock);
    unsigned n = d->ndrops;
    u64 drop[DROPS_MAX];
    memcpy(drop, d->drop, sizeof(drop));
    d->ndrops = 0;
    atomic_store(&d->any_drop, false);
    pthread_mutex_unlock(&d->lock);
    for (unsigned k = 0; k < SPACES; k++) {
        struct space *s = &d->space[k];
        if (!s->pid)
            continue;
        if (n > DROPS_MAX && space_reset(d, s))
            return -1;
        for (unsigned i = 0; i < n && n <= DROPS_MAX; i++)
            if (drop_writers(d, s, drop[i]))
                return -1;
    }
    return 0;
}

static int heed_invlpg(struct direct *d, struct space *s)
{
    struct cpu *c = d->cpu;
    u32 n = c->ndropped - s->dropped;
    s->dropped = c->ndropped;
    if (n && (n > CPU_DROPPED || s->large))
        s->space_epoch = c->space_epoch - 1; /* all of them are looked at */
    else
        for (u32 k = c->ndropped - n; k != c->ndropped; k++)
            if (unmap(d, s, find(s, c->dropped[k % CPU_DROPPED] >> PAGE_SHIFT)))
                return -1;
    return 0;
}

/* The address space was flushed: what is mapped as its tables say stays. */
static int heed_flush(struct direct *d, struct space *s)
{
    if (s->space_epoch == d->cpu->space_epoch)
        return 0;
    s->space_epoch = d->cpu->space_epoch;
    if (s->nmappings > CHECKED_MOST)
        return space_reset(d, s);
    u32 stale[STALE_MOST];
    unsigned n = 0;
    for (struct mapping *m = s->mapping; m < s->mapping + s->nmappings; m++) {
        struct target t;
        if (!m->rights ||
            (look_up(d, s, m->la_page << PAGE_SHIFT, m->rights & MAP_EXEC ? 0 : -1, &t) &&
             is_fresh(d, m, &t)))
            continue;
        if (n == STALE_MOST)
            return space_reset(d, s);
        stale[n++] = (u32)(m - s->mapping);
    }
    while (n)
        if (unmap(d, s, &s->mapping[stale[--n]]))
            return -1;
    return 0;
}

/* Pages that are executable, but have been written to since they were looked at. */
static int heed_code(struct direct *d, struct space *s)
{
    const struct mem *mem = d->cpu->mem;
    u32 epoch = atomic_load(&mem->code_epoch);
    if (epoch == s->code_epoch)
        return 0;
    s->code_epoch = epoch;
    for (struct mapping *m = s->mapping; m < s->mapping + s->nmappings; m++)
        if (m->rights & MAP_EXEC &&
            ((u32)(d->verdict[m->page].key >> 8) != mem_code_gen(mem, m->page) ||
             d->verdict[m->page].scan != m->scan) &&
            unmap(d, s, m))
            return -1;
    return 0;
}

int direct_catch_up(struct direct *d, struct space *s)
{
    if (atomic_load(&d->any_drop) && heed_drops(d))
        return -1;
    return heed_invlpg(d, s) || heed_flush(d, s) || heed_code(d, s) ? -1 : 0;
}
