/*
 * bt_emit.h - writing host instructions. Registers are numbers.
 */
#ifndef POPF_BT_EMIT_H
#define POPF_BT_EMIT_H

#include "cpu/cpu_mem.h"
#include "engine/bt/bt.h"

struct emit {
    u8 *p;
};

static inline void e8(struct emit *e, unsigned v)
{
    *e->p++ = (u8)v;
}

static inline void e32(struct emit *e, u32 v)
{
    *(u32_any *)e->p = v;
    e->p += 4;
}

static inline void e64(struct emit *e, u64 v)
{
    *(u64_any *)e->p = v;
    e->p += 8;
}

/* REX.W OP with ModRM naming two registers. */
static inline void emit_rr(struct emit *e, unsigned op, unsigned reg, unsigned rm)
{
    e8(e, 0x48 | (reg >> 3 & 1) << 2 | (rm >> 3 & 1));
    e8(e, op);
    e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void emit_mov(struct emit *e, unsigned dst, unsigned src)
{
    emit_rr(e, 0x89, src, dst);
}

/* From GS, which points behind struct cpu. */
#define GS_CPU(field) ((u32)((s32)offsetof(struct cpu, field) - (s32)CPU_SPAN))
#define GS_REG(n)     (GS_CPU(reg) + 8 * (n))
#define GS_WORD(w)    (GS_CPU(emitted) + 8 * (w))

/* REX.W OP reg, gs:[off] (0x8b load, 0x89 store, 0x03 add). */
static inline void emit_gs(struct emit *e, unsigned op, unsigned reg, u32 off)
{
    e8(e, 0x65);
    e8(e, 0x48 | (reg >> 3 & 1) << 2);
    e8(e, op);
    e8(e, 0x04 | (reg & 7) << 3);
    e8(e, 0x25);
    e32(e, off);
}

/* mov dword gs:[off], v */
static inline void emit_gs_imm32(struct emit *e, u32 off, u32 v)
{
    e8(e, 0x65), e8(e, 0xc7), e8(e, 0x04), e8(e, 0x25), e32(e, off), e32(e, v);
}

static inline void emit_load(struct emit *e, unsigned reg, u32 off)
{
    emit_gs(e, 0x8b, reg, off);
}

static inline void emit_store(struct emit *e, unsigned reg, u32 off)
{
    emit_gs(e, 0x89, reg, off);
}

/* gs:[off] += 1 by way of a register, without touching the flags. */
static inline void emit_count(struct emit *e, unsigned temp, u32 off)
{
    emit_load(e, temp, off);
    e8(e, 0x48 | (temp >> 3 & 1) << 2 | (temp >> 3 & 1)), e8(e, 0x8d); /* lea temp, [temp + 1] */
    e8(e, 0x40 | (temp & 7) << 3 | (temp & 7)), e8(e, 1);
    emit_store(e, temp, off);
}

/* ModRM and all behind it of [base + disp]; no base is taken for another form. */
static inline void emit_base_disp(struct emit *e, unsigned reg, unsigned base, s32 disp)
{
    unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (s8)disp ? 1 : 2;
    e8(e, mod << 6 | (reg & 7) << 3 | (base & 7));
    if ((base & 7) == 4)
        e8(e, 0x24);
    if (mod == 1)
        e8(e, (u8)disp);
    if (mod == 2)
        e32(e, (u32)disp);
}

/* The same of [base + index * 2^scale + disp]; the index is not RSP. */
static inline void emit_sib(struct emit *e, unsigned reg, unsigned base, unsigned index,
                            unsigned scale, s32 disp)
{
    unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (s8)disp ? 1 : 2;
    e8(e, mod << 6 | (reg & 7) << 3 | 4);
    e8(e, scale << 6 | (index & 7) << 3 | (base & 7));
    if (mod == 1)
        e8(e, (u8)disp);
    if (mod == 2)
        e32(e, (u32)disp);
}

/* OP reg, [base + disp]; the register is 4 or 8 bytes wide. */
static inline void emit_mem_sized(struct emit *e, unsigned size, unsigned op, unsigned reg,
                                  unsigned base, s32 disp)
{
    e8(e, 0x40 | (size & 8) | (reg >> 3 & 1) << 2 | (base >> 3 & 1));
    e8(e, op);
    emit_base_disp(e, reg, base, disp);
}

/* OP reg, [base + index + disp]; likewise. */
static inline void emit_mem_index(struct emit *e, unsigned size, unsigned op, unsigned reg,
                                  unsigned base, unsigned index, s32 disp)
{
    e8(e, 0x40 | (size & 8) | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1));
    e8(e, op);
    emit_sib(e, reg, base, index, 0, disp);
}

static inline void emit_mem(struct emit *e, unsigned op, unsigned reg, unsigned base, s32 disp)
{
    emit_mem_sized(e, 8, op, reg, base, disp);
}

static inline void emit_lea(struct emit *e, unsigned dst, unsigned base, s32 disp)
{
    emit_mem(e, 0x8d, dst, base, disp);
}

/* rorx dst, src, n: keeps the flags */
static inline void emit_rorx(struct emit *e, unsigned dst, unsigned src, unsigned n)
{
    e8(e, 0xc4), e8(e, (dst & 8 ? 0 : 0x80) | 0x40 | (src & 8 ? 0 : 0x20) | 3);
    e8(e, 0xfb), e8(e, 0xf0), e8(e, 0xc0 | (dst & 7) << 3 | (src & 7)), e8(e, n);
}

/* mov reg32, reg32: clears the upper half. */
static inline void emit_zero_extend(struct emit *e, unsigned reg)
{
    e8(e, 0x40 | (reg >> 3 & 1) << 2 | (reg >> 3 & 1));
    e8(e, 0x89);
    e8(e, 0xc0 | (reg & 7) << 3 | (reg & 7));
}

/* jmp rel32; returns where the displacement is. */
static inline u8 *emit_jmp(struct emit *e, const u8 *to)
{
    e8(e, 0xe9);
    e32(e, (u32)(to - (e->p + 4)));
    return e->p - 4;
}

static inline u8 *emit_jcc(struct emit *e, unsigned cc, const u8 *to)
{
    e8(e, 0x0f);
    e8(e, 0x80 | cc);
    e32(e, (u32)(to - (e->p + 4)));
    return e->p - 4;
}

/* Points the rel32 at `site` to `to`. */
static inline void emit_patch(u8 *site, const u8 *to)
{
    *(volatile u32_any *)site = (u32)(to - (site + 4));
}

/* call rel32 */
static inline void emit_call(struct emit *e, const u8 *to)
{
    e8(e, 0xe8);
    e32(e, (u32)(to - (e->p + 4)));
}

/* jmp to code that may be out of a rel32's reach: jmp [rip+0] with the address behind it. */
static inline void emit_jmp_far(struct emit *e, const u8 *to)
{
    e8(e, 0xff);
    e8(e, 0x25);
    e32(e, 0);
    e64(e, (u64)to);
}

#endif
