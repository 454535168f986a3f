/*
 * cpu_seg.h - segment registers and descriptors (SDM vol. 3A, chapters 3 and 5).
 */
#ifndef POPF_CPU_SEG_H
#define POPF_CPU_SEG_H

#include "cpu/cpu.h"

/* A descriptor as read from the GDT or LDT. `hi` holds the upper 8 bytes of 16-byte ones. */
struct desc {
    u64 lo, hi;
    gva_t at; /* where it was read, to set the accessed or busy bit */
};

static inline u64 desc_base(u64 d)
{
    return (d >> 16 & 0xffffff) | (d >> 56 & 0xff) << 24;
}

/* Limit in bytes. */
static inline u32 desc_limit(u64 d)
{
    u32 limit = (d & 0xffff) | (d >> 32 & 0xf0000);
    return d & BIT(55) ? limit << 12 | 0xfff : limit;
}

/* In the form of struct seg.attr. */
static inline u32 desc_attr(u64 d)
{
    return d >> 40 & 0xf0ff;
}

static inline unsigned desc_dpl(u64 d)
{
    return d >> 45 & 3;
}

/* Reads the descriptor that `sel` names; false if it lies outside its table. Throws #PF. */
bool cpu_read_desc(struct cpu *c, u16 sel, struct desc *d);

/* Loads a data segment, SS included, or in real and V86 mode any, as MOV and POP do. Throws. */
void cpu_load_seg(struct cpu *c, unsigned seg, u16 sel);

/* Sets a segment register from a checked descriptor. */
void cpu_set_seg(struct cpu *c, unsigned seg, u16 sel, u64 desc);

/* Sets a segment as real mode and V86 mode do (base = sel * 16). In V86: limit and attributes too.
 */
void cpu_set_seg_real(struct cpu *c, unsigned seg, u16 sel);

/* Recomputes rd_end and wr_end of every segment for the current mode. */
void cpu_seg_derive(struct cpu *c);

/* Loads LDTR or TR with all checks (LLDT, LTR, task switch). */
void cpu_load_ldt(struct cpu *c, u16 sel);
void cpu_load_tr(struct cpu *c, u16 sel);

/* Checks, at the current CPL, a code segment for a near target: throws #GP(0) outside the limit or
 * if not canonical. */
void cpu_check_rip(struct cpu *c, u64 rip);

/* Stack of the current mode: pushes and pops by SS's size. `size` 2, 4, 8. Throw #SS, #PF. They
 * change RSP only after the access. */
void cpu_push(struct cpu *c, unsigned size, u64 val);
u64 cpu_pop(struct cpu *c, unsigned size);

/* RSP masked to the stack's width, and the mask: ~0, 0xffffffff or 0xffff. */
static inline u64 cpu_sp_mask(const struct cpu *c)
{
    if (c->mode == X86_MODE64)
        return ~0ull;
    return c->seg[SS].attr & SEG_DB ? 0xffffffffull : 0xffffull;
}

/* Writes the stack pointer, leaving what is beyond the stack's width alone (32-bit: zeroed). */
static inline void cpu_set_sp(struct cpu *c, u64 sp)
{
    u64 mask = cpu_sp_mask(c);
    c->reg[RSP] = mask == 0xffff ? (c->reg[RSP] & ~mask) | (sp & mask) : sp & mask;
}

#endif
