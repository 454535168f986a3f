/*
 * cpu_paging.c - linear to physical (SDM vol. 3A, chapter 4).
 *
 * Other CPUs change page tables while they are walked: entries are read with one atomic load each,
 * and A and D are set by compare-and-swap; if the entry has changed since it was read the walk is
 * done again from the top. Tables outside RAM read as all ones, as an empty bus does.
 */
#include "cpu/cpu_paging.h"

#include "cpu/cpu_cpuid.h"

#define PTE_ADDR   0x000ffffffffff000ull
#define CPUID_1G   BIT(26) /* CPUID.80000001H:EDX */
#define PDE32_RSVD BIT(21) /* of a 4 MiB page; more below it where MAXPHYADDR < 40 */

/* --- faults --- */

static bool fault(const struct cpu *c, u32 access, u32 why, struct walk *w)
{
    w->err = why | (access & (PF_W | PF_U));
    bool nx = c->efer & EFER_NXE && c->cr4 & CR4_PAE;
    if (access & PF_I && (nx || c->cr4 & CR4_SMEP))
        w->err |= PF_I;
    return false;
}

/* May a page with these rights (W and U of all levels ANDed, NX ORed) be accessed so? */
static inline bool allowed(const struct cpu *c, u32 access, u64 rights, u64 nx)
{
    if (access & PF_U) {
        if (!(rights & PTE_U) || (access & PF_W && !(rights & PTE_W)))
            return false;
    } else {
        if (access & PF_W && !(rights & PTE_W) && c->cr0 & CR0_WP)
            return false;
        if (rights & PTE_U && (access & WALK_SMAP || (access & PF_I && c->cr4 & CR4_SMEP)))
            return false;
    }
    return !(access & PF_I && nx & PTE_NX);
}

static inline bool may_write(const struct cpu *c, u32 access, u64 rights)
{
    return rights & PTE_W || (!(access & PF_U) && !(c->cr0 & CR0_WP));
}

/* --- entries in memory --- */

/* True if the store of A or D to an entry at gpa must be left out: a table in ROM. */
static bool in_rom(const struct cpu *c, gpa_t gpa)
{
    return mem_find(c->mem, gpa)->rom;
}

/* An entry has been written: somebody may have decoded code from the same page. */
static void note_store(struct cpu *c, gpa_t gpa, unsigned size)
{
    u64 page = mem_page(mem_find(c->mem, gpa), gpa);
    if (mem_has_code(c->mem, page) && mem_code_written(c->mem, page, gpa & PAGE_MASK, size))
        c->code_stale = true;
}

static bool set_bits64(struct cpu *c, gpa_t at, _Atomic u64 *p, u64 old, u64 set)
{
    if (!p || in_rom(c, at))
        return true;
    if (!atomic_compare_exchange_strong(p, &old, old | set))
        return false;
    note_store(c, at, 8);
    return true;
}

static bool set_bits32(struct cpu *c, gpa_t at, _Atomic u32 *p, u32 old, u32 set)
{
    if (!p || in_rom(c, at))
        return true;
    if (!atomic_compare_exchange_strong(p, &old, old | set))
        return false;
    note_store(c, at, 4);
    return true;
}

/* --- PAE and 4-level: entries of 8 bytes --- */

enum { AGAIN = -1, FAULT = 0, OK = 1 };

static int leaf64(struct cpu *c, gva_t la, u32 access, struct walk *w, u64 e, u64 rights, u64 nx,
                  gpa_t at, _Atomic u64 *p, unsigned shift)
{
    u64 offset_mask = BIT(shift) - 1;
    w->gpa = (e & PTE_ADDR & ~offset_mask) | (la & offset_mask);
    if (access & WALK_PEEK) {
        w->meta = shift;
        w->rights = (rights & (PTE_W | PTE_U)) | (nx & PTE_NX) | (e & (PTE_A | PTE_D));
        return OK;
    }
    if (unlikely(!allowed(c, access, rights, nx)))
        return fault(c, access, PF_P, w);
    u64 need = access & PF_W ? PTE_A | PTE_D : PTE_A;
    if (unlikely((e & need) != need)) {
        if (!set_bits64(c, at, p, e, need))
            return AGAIN;
        e |= need;
    }
    w->writable = e & PTE_D && may_write(c, access, rights);
    w->meta = shift | (e & PTE_G && c->cr4 & CR4_PGE ? TLB_GLOBAL : 0);
    return OK;
}

static int walk64_once(struct cpu *c, gva_t la, u32 access, struct walk *w)
{
    u64 rights = ~0ull, nx = 0;
    unsigned level = 4;
    gpa_t table = c->cr3 & PTE_ADDR;
    if (c->paging == PAGING_PAE) {
        u64 pdpte = c->pdpte[la >> 30 & 3];
        if (!(pdpte & PTE_P))
            return fault(c, access, 0, w);
        table = pdpte & PTE_ADDR;
        level = 2;
    }
    for (;; level--) {
        unsigned shift = PAGE_SHIFT + 9 * (level - 1);
        gpa_t at = table + (la >> shift & 511) * 8;
        _Atomic u64 *p = (_Atomic u64 *)mem_ptr(c->mem, at);
        u64 e = likely(p != NULL) ? atomic_load_explicit(p, memory_order_relaxed) : ~0ull;
        if (!(e & PTE_P))
            return fault(c, access, 0, w);
        bool leaf = level == 1 || e & PTE_PS;
        u64 rsvd = c->pte_rsvd[level] | (leaf ? c->large_rsvd[level] : 0);
        if (unlikely(e & rsvd))
            return fault(c, access, PF_P | PF_RSVD, w);
        rights &= e;
        nx |= e;
        if (leaf)
            return leaf64(c, la, access, w, e, rights, nx, at, p, shift);
        if (unlikely(!(e & PTE_A)) && !(access & WALK_PEEK) && !set_bits64(c, at, p, e, PTE_A))
            return AGAIN;
        table = e & PTE_ADDR;
    }
}

/* --- 32-bit paging: entries of 4 bytes --- */

/* The base of a 4 MiB page: bits 31:22, and with PSE-36 bits 39:32 from 20:13. */
static gpa_t pse_base(u32 pde)
{
    return (pde & 0xffc00000u) | (u64)(pde >> 13 & 0xff) << 32;
}

static int leaf32(struct cpu *c, u32 access, struct walk *w, u32 e, u32 rights, gpa_t at,
                  _Atomic u32 *p, unsigned shift)
{
    if (access & WALK_PEEK) {
        w->meta = shift;
        w->rights = (rights & (PTE_W | PTE_U)) | (e & (PTE_A | PTE_D));
        return OK;
    }
    if (unlikely(!allowed(c, access, rights, 0)))
        return fault(c, access, PF_P, w);
    u32 need = access & PF_W ? PTE_A | PTE_D : PTE_A;
    if (unlikely((e & need) != need)) {
        if (!set_bits32(c, at, p, e, need))
            return AGAIN;
        e |= need;
    }
    w->writable = e & PTE_D && may_write(c, access, rights);
    w->meta = shift | (e & PTE_G && c->cr4 & CR4_PGE ? TLB_GLOBAL : 0);
    return OK;
}

static inline u32 load32(struct cpu *c, gpa_t at, _Atomic u32 **p)
{
    *p = (_Atomic u32 *)mem_ptr(c->mem, at);
    return likely(*p != NULL) ? atomic_load_explicit(*p, memory_order_relaxed) : ~0u;
}

static int walk32_once(struct cpu *c, gva_t la, u32 access, struct walk *w)
{
    _Atomic u32 *p;
    gpa_t at = (c->cr3 & 0xfffff000u) + (la >> 22 & 1023) * 4;
    u32 pde = load32(c, at, &p);
    if (!(pde & PTE_P))
        return fault(c, access, 0, w);
    if (pde & PTE_PS && c->paging == PAGING_32_PSE) {
        if (unlikely(pde & c->large_rsvd[2]))
            return fault(c, access, PF_P | PF_RSVD, w);
        w->gpa = pse_base(pde) | (la & 0x3fffff);
        return leaf32(c, access, w, pde, pde, at, p, 22);
    }
    if (unlikely(!(pde & PTE_A)) && !(access & WALK_PEEK) && !set_bits32(c, at, p, pde, PTE_A))
        return AGAIN;
    at = (pde & 0xfffff000u) + (la >> 12 & 1023) * 4;
    u32 pte = load32(c, at, &p);
    if (!(pte & PTE_P))
        return fault(c, access, 0, w);
    w->gpa = (pte & 0xfffff000u) | (la & PAGE_MASK);
    return leaf32(c, access, w, pte, pde & pte, at, p, PAGE_SHIFT);
}

bool cpu_walk(struct cpu *c, gva_t la, u32 access, struct walk *w)
{
    if (c->paging == PAGING_NONE) {
        *w = (struct walk){.gpa = la,
                           .meta = PAGE_SHIFT,
                           .writable = true,
                           .rights = PTE_W | PTE_U | PTE_A | PTE_D};
        return true;
    }
    for (;;) {
        int r =
            c->paging >= PAGING_PAE ? walk64_once(c, la, access, w) : walk32_once(c, la, access, w);
        if (likely(r != AGAIN))
            return r;
    }
}

/* --- what the walker derives from control registers --- */

static bool has_1g(const struct cpu *c)
{
    u32 r[4];
    cpu_cpuid(c, 0x80000001, 0, r);
    return r[3] & CPUID_1G;
}

/* PAE and 4-level (SDM vol. 3A, tables 4-8 to 4-20). */
static void derive64(struct cpu *c)
{
    u64 high = PTE_ADDR & ~(BIT(cpu_phys_bits(c)) - 1);
    if (!(c->efer & EFER_NXE))
        high |= PTE_NX;
    if (c->paging == PAGING_PAE)
        high |= 0x7ffull << 52;
    for (unsigned level = 1; level <= 4; level++)
        c->pte_rsvd[level] = high;
    c->pte_rsvd[4] |= PTE_PS;
    if (!has_1g(c))
        c->pte_rsvd[3] |= PTE_PS;
    c->large_rsvd[2] = 0x1fe000;
    c->large_rsvd[3] = 0x3fffe000;
}

/* Table 4-4: bits 21 down to M-19 of a PDE that maps 4 MiB, M the smaller of 40 and MAXPHYADDR. */
static void derive32(struct cpu *c)
{
    unsigned m = min_u64(cpu_phys_bits(c), 40);
    c->large_rsvd[2] = (PDE32_RSVD << 1) - BIT(m - 19);
}

static enum cpu_paging paging_kind(const struct cpu *c)
{
    if (!(c->cr0 & CR0_PG))
        return PAGING_NONE;
    if (cpu_long(c))
        return PAGING_4LEVEL;
    if (c->cr4 & CR4_PAE)
        return PAGING_PAE;
    return c->cr4 & CR4_PSE ? PAGING_32_PSE : PAGING_32;
}

void cpu_paging_update(struct cpu *c)
{
    u64 key = BIT(63) | (c->cr0 & CR0_PG) | (c->cr4 & (CR4_PAE | CR4_PSE)) |
              (u64)(c->efer & (EFER_LMA | EFER_NXE)) << 32;
    if (likely(key == c->paging_key))
        return;
    c->paging_key = key;
    c->paging = paging_kind(c);
    for (unsigned level = 0; level < 5; level++)
        c->pte_rsvd[level] = c->large_rsvd[level] = 0;
    if (c->paging >= PAGING_PAE)
        derive64(c);
    else if (c->paging == PAGING_32_PSE)
        derive32(c);
}

/* SDM vol. 3A, 4.4.1: bits 2:1, 8:5 and those from MAXPHYADDR up are reserved. */
bool cpu_load_pdptes(struct cpu *c, u64 cr3)
{
    u64 rsvd = ~(BIT(cpu_phys_bits(c)) - 1) | 0x1e6;
    gpa_t at = cr3 & 0xffffffe0u;
    const u64 *p = (const u64 *)mem_ptr(c->mem, at);
    u64 e[4];
    for (unsigned i = 0; i < 4; i++) {
        e[i] = p ? __atomic_load_n(p + i, __ATOMIC_RELAXED) : ~0ull;
        if (e[i] & PTE_P && e[i] & rsvd)
            return false;
    }
    for (unsigned i = 0; i < 4; i++)
        c->pdpte[i] = e[i];
    return true;
}
