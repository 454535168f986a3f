/*
 * cpu_mem.h - guest memory as instructions see it: segment checks, paging, the software TLB.
 *
 * All functions may throw (#GP/#SS for limits and canonicality, #PF, #AC, #DB is noted). `seg` is
 * ES..GS or X86_SEG_FLAT; `ea` an effective address, already cut to the address size.
 *
 * The fast paths are inline; everything else (miss, page crossing, MMIO, ROM, watchpoint) is in
 * cpu_mem.c.
 */
#ifndef POPF_CPU_MEM_H
#define POPF_CPU_MEM_H

#include "cpu/cpu.h"

/* --- slow paths, by linear address; size 1..64 bytes --- */

/* Does what the fast path could not: fills the TLB and copies between guest memory and buf. */
void cpu_read_slow(struct cpu *c, gva_t la, void *buf, unsigned size);
void cpu_write_slow(struct cpu *c, gva_t la, const void *buf, unsigned size);

/* Segment check that the quick limits did not pass: throws, or returns if the access is fine. */
void cpu_seg_check(struct cpu *c, unsigned seg, u64 ea, unsigned size, bool write);

/*
 * The host address of [la, la+size) for writing, once write permission is established (dirty bit
 * set), or NULL when it must go through a bounce buffer (MMIO, ROM, crosses a page). After the
 * store call cpu_wrote(). Throws #PF.
 */
u8 *cpu_ptr_slow(struct cpu *c, gva_t la, unsigned size, bool write);

/* A store through a host pointer went to [la, la+size): drops code decoded from there. */
void cpu_wrote_slow(struct cpu *c, _Atomic u64 *code, gva_t la, unsigned size);

/* --- implicit supervisor accesses: descriptor tables, TSS, IDT (never EFLAGS.AC-relaxed) --- */

u64 cpu_sys_read(struct cpu *c, gva_t la, unsigned size);
void cpu_sys_write(struct cpu *c, gva_t la, unsigned size, u64 val);

/* --- translations --- */

/* Linear to physical without touching anything (debugger, monitor): false if not mapped. */
bool cpu_translate(struct cpu *c, gva_t la, gpa_t *gpa);

/*
 * The page of code at linear address la for the current CPL: throws #PF (fetch), or returns NULL
 * if the page is not RAM (code in MMIO: fetch by cpu_fetch_slow).
 */
const struct itlb_entry *cpu_code_page(struct cpu *c, gva_t la);

/* Copies up to `size` bytes of code at la that lie in one page; returns how many. Throws. */
unsigned cpu_fetch_slow(struct cpu *c, gva_t la, u8 *buf, unsigned size);

/* Drops TLB contents. */
void cpu_tlb_flush(struct cpu *c);
void cpu_tlb_flush_page(struct cpu *c, gva_t la);

/* Monitor-side access to guest linear memory with no side effects; true if all was mapped RAM. */
bool cpu_peek(struct cpu *c, gva_t la, void *buf, unsigned size);

/* Guest operands in host memory lie as the guest pleases; each is still one access. */
typedef u8 __attribute__((aligned(1), may_alias)) u8_any;
typedef u16 __attribute__((aligned(1), may_alias)) u16_any;
typedef u32 __attribute__((aligned(1), may_alias)) u32_any;
typedef u64 __attribute__((aligned(1), may_alias)) u64_any;

/* --- fast paths --- */

static inline struct tlb_entry *cpu_tlb_at(struct cpu *c, gva_t la)
{
    return &c->tlb[tlb_slot(la)];
}

/* Linear address of seg:ea for an access of `size` bytes; throws on limit violations. */
static inline gva_t cpu_la(struct cpu *c, unsigned seg, u64 ea, unsigned size, bool write)
{
    const struct seg *s = &c->seg[seg];
    if (unlikely(ea + size > (write ? s->wr_end : s->rd_end)))
        cpu_seg_check(c, seg, ea, size, write);
    return (ea + s->base) & c->la_mask;
}

/* True if [la, la+size) does not leave its page. */
static inline bool cpu_in_page(gva_t la, unsigned size)
{
    return (la & PAGE_MASK) <= PAGE_SIZE - size;
}

/* Host address for reading, or NULL: take the slow path. */
static inline u8 *cpu_rd_fast(struct cpu *c, gva_t la, unsigned size)
{
    struct tlb_entry *t = cpu_tlb_at(c, la);
    if (likely(t->rd == (la & ~PAGE_MASK) && cpu_in_page(la, size)))
        return (u8 *)(la + t->addend);
    return NULL;
}

static inline void cpu_wrote(struct cpu *c, _Atomic u64 *code, gva_t la, unsigned size)
{
    __asm__ volatile("" : : : "memory"); /* the store comes first: mem.h, code tracking */
    if (unlikely(atomic_load_explicit(code, memory_order_relaxed) != 0))
        cpu_wrote_slow(c, code, la, size);
}

#define CPU_MEM_ACCESS(bits)                                                                       \
    static inline u##bits cpu_ld_la##bits(struct cpu *c, gva_t la)                                 \
    {                                                                                              \
        const u8 *p = cpu_rd_fast(c, la, bits / 8);                                                \
        if (likely(p != NULL))                                                                     \
            return *(const volatile u##bits##_any *)p;                                             \
        u##bits v;                                                                                 \
        cpu_read_slow(c, la, &v, bits / 8);                                                        \
        return v;                                                                                  \
    }                                                                                              \
    static inline void cpu_st_la##bits(struct cpu *c, gva_t la, u##bits v)                         \
    {                                                                                              \
        struct tlb_entry *t = cpu_tlb_at(c, la);                                                   \
        if (likely(t->wr == (la & ~PAGE_MASK) && cpu_in_page(la, bits / 8))) {                     \
            *(volatile u##bits##_any *)(la + t->addend) = v;                                       \
            cpu_wrote(c, t->code, la, bits / 8);                                                   \
            return;                                                                                \
        }                                                                                          \
        cpu_write_slow(c, la, &v, bits / 8);                                                       \
    }                                                                                              \
    static inline u##bits cpu_ld##bits(struct cpu *c, unsigned seg, u64 ea)                        \
    {                                                                                              \
        return cpu_ld_la##bits(c, cpu_la(c, seg, ea, bits / 8, false));                            \
    }                                                                                              \
    static inline void cpu_st##bits(struct cpu *c, unsigned seg, u64 ea, u##bits v)                \
    {                                                                                              \
        cpu_st_la##bits(c, cpu_la(c, seg, ea, bits / 8, true), v);                                 \
    }
CPU_MEM_ACCESS(8)
CPU_MEM_ACCESS(16)
CPU_MEM_ACCESS(32)
CPU_MEM_ACCESS(64)
#undef CPU_MEM_ACCESS

/* size is 1, 2, 4 or 8 */
static inline u64 cpu_ld(struct cpu *c, unsigned seg, u64 ea, unsigned size)
{
    switch (size) {
    case 1:
        return cpu_ld8(c, seg, ea);
    case 2:
        return cpu_ld16(c, seg, ea);
    case 4:
        return cpu_ld32(c, seg, ea);
    default:
        return cpu_ld64(c, seg, ea);
    }
}

static inline void cpu_st(struct cpu *c, unsigned seg, u64 ea, unsigned size, u64 v)
{
    switch (size) {
    case 1:
        cpu_st8(c, seg, ea, v);
        break;
    case 2:
        cpu_st16(c, seg, ea, v);
        break;
    case 4:
        cpu_st32(c, seg, ea, v);
        break;
    default:
        cpu_st64(c, seg, ea, v);
    }
}

/*
 * A read-modify-write operand: begin() establishes write permission and gives a pointer to operate
 * on, atomically if the guest said LOCK; end() finishes (writes a bounce buffer back, notes code).
 * A LOCKed operand that had to be bounced is done under the machine-wide split lock, begun by
 * begin() and released by end(): nothing between the two may throw.
 */
struct cpu_rmw {
    u8 *p;
    _Atomic u64 *code; /* NULL: bounced */
    gva_t la;
    u8 size;
    bool locked;  /* holds the split lock */
    gpa_t gpa[2]; /* where a bounced operand goes: its first byte, and the second page's start */
    u8 bounce[16] __attribute__((aligned(16)));
};

void cpu_rmw_begin_slow(struct cpu *c, struct cpu_rmw *m, bool lock);
void cpu_rmw_end_slow(struct cpu *c, struct cpu_rmw *m);

/* size 1..16 */
static inline void cpu_rmw_begin(struct cpu *c, struct cpu_rmw *m, unsigned seg, u64 ea,
                                 unsigned size, bool lock)
{
    m->la = cpu_la(c, seg, ea, size, true);
    m->size = size;
    struct tlb_entry *t = cpu_tlb_at(c, m->la);
    if (likely(t->wr == (m->la & ~PAGE_MASK) && cpu_in_page(m->la, size))) {
        m->p = (u8 *)(m->la + t->addend);
        m->code = t->code;
        return;
    }
    cpu_rmw_begin_slow(c, m, lock);
}

static inline void cpu_rmw_end(struct cpu *c, struct cpu_rmw *m)
{
    if (likely(m->code != NULL))
        cpu_wrote(c, m->code, m->la, m->size);
    else
        cpu_rmw_end_slow(c, m);
}

/* Effective address of the ModRM memory operand. */
static inline u64 cpu_ea(const struct cpu *c, const struct x86_insn *i)
{
    u64 ea = c->reg[i->base] + (c->reg[i->index] << i->scale) + (s64)i->disp;
    if (likely(i->adsize == 8))
        return ea;
    return i->adsize == 4 ? (u32)ea : (u16)ea;
}

#endif
