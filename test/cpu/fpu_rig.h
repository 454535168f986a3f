/*
 * fpu_rig.h - one CPU with a model of this host, 64-bit paging over 2 MiB of RAM mapped one to one,
 * an MMIO page, and a way to execute single instructions: for the tests of FP and SIMD.
 */
#ifndef FPU_RIG_H
#define FPU_RIG_H

#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_insn.h"
#include "cpu/cpu_mem.h"
#include "cpu/cpu_seg.h"

#define RIG_PML4 0x100000u
#define RIG_PT   0x103000u
#define RIG_MMIO 0x180000u /* this page leads to physical addresses that are not RAM */
#define RIG_RIP  0x1234u

struct rig {
    struct mem mem;
    struct cpu_model *model;
    struct cpu *c;
    u8 mmio[4096];
    unsigned mmio_reads, mmio_writes;
};

static u64 rig_mmio_read(struct cpu *c, gpa_t gpa, unsigned size)
{
    struct rig *r = c->world_arg;
    u64 v = 0;
    r->mmio_reads++;
    memcpy(&v, r->mmio + (gpa & PAGE_MASK), size);
    return v;
}

static void rig_mmio_write(struct cpu *c, gpa_t gpa, unsigned size, u64 val)
{
    struct rig *r = c->world_arg;
    r->mmio_writes++;
    memcpy(r->mmio + (gpa & PAGE_MASK), &val, size);
}

static const struct cpu_world rig_world = {.mmio_read = rig_mmio_read,
                                           .mmio_write = rig_mmio_write};

static inline u8 *rig_ptr(struct rig *r, gpa_t gpa)
{
    return mem_ptr(&r->mem, gpa);
}

/* Sets flags of the page of linear address la (0: not present). */
static inline void rig_page(struct rig *r, gva_t la, u64 flags)
{
    u64 gpa = (la & ~PAGE_MASK) == RIG_MMIO ? 0xd0000000u : la & ~PAGE_MASK;
    *(u64 *)rig_ptr(r, RIG_PT + 8 * (la >> PAGE_SHIFT)) = gpa | flags;
    cpu_tlb_flush(r->c);
}

static inline void rig_segments(struct rig *r, enum x86_mode mode)
{
    struct cpu *c = r->c;
    for (unsigned i = 0; i < 6; i++) {
        c->seg[i].sel = i == CS ? 8 : 16;
        c->seg[i].base = 0;
        c->seg[i].limit = 0xffffffff;
        c->seg[i].attr = SEG_P | SEG_S | SEG_ACCESSED | SEG_WRITABLE | SEG_G | SEG_DB;
    }
    c->seg[CS].attr = SEG_P | SEG_S | SEG_ACCESSED | SEG_CODE | SEG_READABLE | SEG_G |
                      (mode == X86_MODE64   ? SEG_L
                       : mode == X86_MODE32 ? SEG_DB
                                            : 0);
}

/* 64-bit, or 32- and 16-bit compatibility mode (same page tables). */
static inline void rig_mode(struct rig *r, enum x86_mode mode)
{
    struct cpu *c = r->c;
    c->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_MP | CR0_ET | CR0_WP;
    c->cr3 = RIG_PML4;
    c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | (cpu_cr4_valid(c) & CR4_OSXSAVE);
    c->efer = EFER_LME | EFER_LMA | EFER_NXE;
    c->xcr0 = cpu_xcr0_valid(c);
    c->eflags = 0;
    rig_segments(r, mode);
    cpu_update_mode(c);
    cpu_seg_derive(c);
    cpu_tlb_flush(c);
}

/* Real mode, paging off. */
static inline void rig_real_mode(struct rig *r)
{
    struct cpu *c = r->c;
    rig_mode(r, X86_MODE16);
    c->cr0 &= ~(u64)(CR0_PE | CR0_PG);
    c->efer = 0;
    for (unsigned i = 0; i < 6; i++) {
        c->seg[i].sel = 0x1000;
        c->seg[i].base = 0x10000;
        c->seg[i].limit = 0xffff;
        c->seg[i].attr = SEG_P | SEG_S | SEG_ACCESSED | SEG_WRITABLE;
    }
    c->seg[CS].attr |= SEG_CODE;
    cpu_update_mode(c);
    cpu_seg_derive(c);
    cpu_tlb_flush(c);
}

static inline void rig_init_model(struct rig *r, const struct cpu_model_config *cfg)
{
    struct err e = {""};
    memset(r, 0, sizeof *r);
    r->model = cpu_model_new(cfg, &e);
    if (!r->model || mem_init(&r->mem, &e) || mem_add_ram(&r->mem, 0, 2 * MiB, false, &e))
        abort();
    r->c = cpu_new(0, &r->mem, r->model, &rig_world, r, NULL, &e);
    if (!r->c)
        abort();
    for (unsigned n = 0; n < 3; n++)
        *(u64 *)rig_ptr(r, RIG_PML4 + n * PAGE_SIZE) =
            (RIG_PML4 + (n + 1) * PAGE_SIZE) | PTE_P | PTE_W | PTE_U;
    for (gva_t la = 0; la < 2 * MiB; la += PAGE_SIZE)
        rig_page(r, la, PTE_P | PTE_W | PTE_U);
    rig_mode(r, X86_MODE64);
}

static inline void rig_init(struct rig *r)
{
    static const struct cpu_model_config cfg = {
        .tsc_hz = 2600000000u, .apic_bus_hz = 1000000000u, .ncpus = 1, .kvm_leaves = true};
    rig_init_model(r, &cfg);
}

static inline void rig_free(struct rig *r)
{
    cpu_free(r->c);
    mem_free(&r->mem);
    cpu_model_free(r->model);
}

#define RIG_MISSING (-2) /* the decoder or the model does not have it */

/* Calls an instruction's body; the vector that it threw, or -1. The CPU is left (cpu_leave). */
static __attribute__((noinline)) int rig_call(struct rig *r, cpu_insn_fn *fn, struct x86_decoded *d)
{
    struct cpu *c = r->c;
    volatile int vec = -1;
    c->exc.pending = false;
    c->reg[X86_SLOT_RIP] = RIG_RIP + d->i.len;
    c->insn = &d->i;
    if (__builtin_setjmp(c->unwind) == 0)
        fn(c, &d->i);
    else
        vec = c->exc.pending ? c->exc.vec : -3;
    c->insn = NULL;
    cpu_leave(c);
    return vec;
}

/* Executes one instruction. */
static inline int rig_run(struct rig *r, const void *code, unsigned len)
{
    struct x86_decoded d;
    if (x86_decode(code, len, r->c->mode, &d) != X86_OK || d.i.len != len)
        return RIG_MISSING;
    if (!cpu_has(r->c, x86_row(&d.i)->feature))
        return RIG_MISSING;
    return rig_call(r, cpu_insn_bind(r->c, &d), &d);
}

#define RUN(r, ...)                                                                                \
    ({                                                                                             \
        static const u8 code_[] = {__VA_ARGS__};                                                   \
        rig_run((r), code_, sizeof code_);                                                         \
    })

/* --- the FP state as an image --- */

struct rig_image {
    u8 b[8192] __attribute__((aligned(64)));
};

static inline void rig_get(struct rig *r, struct rig_image *im)
{
    cpu_fpu_get(r->c, im->b);
}

static inline int rig_set(struct rig *r, const struct rig_image *im)
{
    return cpu_fpu_set(r->c, im->b);
}

/* Offset of a state component in the standard format. */
static inline unsigned rig_offset(struct rig *r, unsigned n)
{
    u32 out[4];
    cpu_cpuid(r->c, 0xd, n, out);
    return out[1];
}

static inline unsigned rig_len(struct rig *r, unsigned n)
{
    u32 out[4];
    cpu_cpuid(r->c, 0xd, n, out);
    return n < 2 ? 0 : out[0];
}

#endif
