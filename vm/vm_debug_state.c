/*
 * vm_debug_state.c - registers and memory of a standing CPU for gdb. The FP state is an XSAVE image
 * (SDM vol. 1, 13.4).
 */
#include "vm/vm.h" /* and with it vm_debug.h */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"

#define XSTATE_BV 512 /* offset of the header */
#define XF_AVX    2
#define XF_OPMASK 5
#define XF_HI256  6
#define XF_HI16   7
#define AVX512    (BIT(XF_OPMASK) | BIT(XF_HI256) | BIT(XF_HI16))

/* --- the FP image --- */

struct image {
    u64 features;
    u8 *p;
    u32 size;
    u32 at[8]; /* of each component; 0: not there */
};

static void layout(struct cpu *c, struct image *im)
{
    u32 r[4];
    *im = (struct image){.features = 3, .size = cpu_fpu_size(c)};
    cpu_cpuid(c, 1, 0, r);
    if (!(r[2] >> 26 & 1)) /* no XSAVE */
        return;
    cpu_cpuid(c, 0xd, 0, r);
    im->features |= r[0];
    for (unsigned n = 2; n < ARRAY_SIZE(im->at); n++) {
        if (!(im->features >> n & 1))
            continue;
        cpu_cpuid(c, 0xd, n, r);
        if (r[1] + r[0] <= im->size)
            im->at[n] = r[1];
    }
}

/* The image in memory of ours, NULL if there is none to be had; parts in their initial state are
 * zeros. */
static bool open_image(struct cpu *c, struct image *im)
{
    u64 present;
    layout(c, im);
    im->p = aligned_alloc(64, align_up(im->size, 64));
    if (!im->p)
        return false;
    cpu_fpu_get(c, im->p);
    memcpy(&present, im->p + XSTATE_BV, 8);
    static const u16 len[8] = {
        [XF_AVX] = 16 * 16, [XF_OPMASK] = 8 * 8, [XF_HI256] = 16 * 32, [XF_HI16] = 16 * 64};
    for (unsigned n = 2; n < ARRAY_SIZE(len); n++)
        if (im->at[n] && !(present >> n & 1))
            memset(im->p + im->at[n], 0, len[n]);
    return true;
}

static bool has_avx512(const struct image *im)
{
    return im->at[XF_OPMASK] && im->at[XF_HI256] && im->at[XF_HI16];
}

enum gdb_vector vm_debug_vector(const struct vcpu *v)
{
    struct image im;
    layout(v->cpu, &im);
    return !im.at[XF_AVX] ? GDB_SSE : has_avx512(&im) ? GDB_AVX512 : GDB_AVX;
}

/* A run of bytes that is both in the image and in struct gdb_regs; `in`: to the image. */
static void move(struct gdb_regs *r, size_t at, u8 *image, size_t n, bool in)
{
    u8 *p = (u8 *)r + at;
    memcpy(in ? image : p, in ? p : image, n);
}

static void move_vectors(struct gdb_regs *r, struct image *im, bool in)
{
    for (unsigned i = 0; i < 16; i++) {
        size_t zmm = offsetof(struct gdb_regs, zmm) + 64 * i;
        move(r, zmm, im->p + 160 + 16 * i, 16, in);
        if (im->at[XF_AVX])
            move(r, zmm + 16, im->p + im->at[XF_AVX] + 16 * i, 16, in);
        if (!has_avx512(im))
            continue;
        move(r, zmm + 32, im->p + im->at[XF_HI256] + 32 * i, 32, in);
        move(r, zmm + 64 * 16, im->p + im->at[XF_HI16] + 64 * i, 64, in);
    }
    if (has_avx512(im))
        move(r, offsetof(struct gdb_regs, k), im->p + im->at[XF_OPMASK], 64, in);
    move(r, offsetof(struct gdb_regs, mxcsr), im->p + 24, 4, in);
    for (unsigned i = 0; i < 8; i++)
        move(r, offsetof(struct gdb_regs, st) + 10 * i, im->p + 32 + 16 * i, 10, in);
}

/* The image has a bit per physical register, 0 for empty; the tag word two (SDM vol. 1, 8.1.7). */
static unsigned tag_of(const u8 *st)
{
    u64 mantissa;
    u16 exponent;
    memcpy(&mantissa, st, 8);
    memcpy(&exponent, st + 8, 2);
    exponent &= 0x7fff;
    if (!exponent && !mantissa)
        return 1;
    return exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0;
}

static u32 full_tags(const struct gdb_regs *r, u8 abridged)
{
    unsigned top = r->fstat >> 11 & 7;
    u32 tags = 0;
    for (unsigned phys = 0; phys < 8; phys++) {
        unsigned tag = abridged >> phys & 1 ? tag_of(r->st[(phys - top) & 7]) : 3;
        tags |= tag << 2 * phys;
    }
    return tags;
}

static u16 get16(const u8 *p)
{
    u16 v;
    memcpy(&v, p, 2);
    return v;
}

static u32 get32(const u8 *p)
{
    u32 v;
    memcpy(&v, p, 4);
    return v;
}

static void get_fpu(struct cpu *c, struct gdb_regs *r)
{
    struct image im;
    if (!open_image(c, &im))
        return;
    move_vectors(r, &im, false);
    r->fctrl = get16(im.p);
    r->fstat = get16(im.p + 2);
    r->ftag = full_tags(r, im.p[4]);
    r->fop = get16(im.p + 6);
    r->fioff = get32(im.p + 8);
    r->fiseg = get16(im.p + 12);
    r->fooff = get32(im.p + 16);
    r->foseg = get16(im.p + 20);
    free(im.p);
}

static int set_fpu(struct cpu *c, const struct gdb_regs *now)
{
    struct gdb_regs r = *now;
    struct image im;
    if (!open_image(c, &im))
        return -1;
    move_vectors(&r, &im, true);
    u16 fctrl = (u16)r.fctrl, fstat = (u16)r.fstat, fop = r.fop & 0x7ff;
    u8 abridged = 0;
    for (unsigned i = 0; i < 8; i++)
        abridged |= (r.ftag >> 2 * i & 3) != 3 ? 1u << i : 0;
    memcpy(im.p, &fctrl, 2);
    memcpy(im.p + 2, &fstat, 2);
    im.p[4] = abridged;
    memcpy(im.p + 6, &fop, 2);
    u64 present = 3;
    for (unsigned n = 2; n < ARRAY_SIZE(im.at); n++)
        present |= im.at[n] ? BIT(n) & (BIT(XF_AVX) | AVX512) : 0;
    u64 was;
    memcpy(&was, im.p + XSTATE_BV, 8);
    present |= was; /* components that gdb does not know stay */
    memcpy(im.p + XSTATE_BV, &present, 8);
    int rc = cpu_fpu_set(c, im.p);
    free(im.p);
    return rc;
}

/* --- all of them --- */

static u64 pc_of(const struct cpu *c)
{
    return (c->reg[X86_SLOT_RIP] + c->seg[CS].base) & c->la_mask;
}

static void get_system(struct vcpu *v, struct gdb_regs *r)
{
    const struct cpu *c = v->cpu;
    r->cr0 = c->cr0;
    r->cr2 = c->cr2;
    r->cr3 = c->cr3;
    r->cr4 = c->cr4;
    r->cr8 = lapic_cr8(&v->lapic);
    r->efer = c->efer;
    r->xcr0 = c->xcr0;
    r->k_gs_base = c->kernel_gs_base;
    r->gdtr_base = c->gdtr.base;
    r->gdtr_limit = c->gdtr.limit;
    r->idtr_base = c->idtr.base;
    r->idtr_limit = c->idtr.limit;
    r->ldtr = c->ldtr.sel;
    r->ldtr_base = c->ldtr.base;
    r->tr = c->tr.sel;
    r->tr_base = c->tr.base;
    memcpy(r->dr, c->dr, sizeof(r->dr));
}

void vm_debug_get_regs(struct vcpu *v, struct gdb_regs *r)
{
    struct cpu *c = v->cpu;
    v->vm->ops->get_state(v->vm->engine, c);
    memset(r, 0, sizeof(*r));
    memcpy(r->gpr, c->reg, sizeof(r->gpr));
    r->pc = pc_of(c);
    r->eflags = cpu_flags(c);
    for (unsigned i = 0; i < 6; i++) {
        r->seg[i] = c->seg[i].sel;
        r->seg_base[i] = c->seg[i].base;
    }
    get_system(v, r);
    get_fpu(c, r);
}

static bool same_fpu(const struct gdb_regs *a, const struct gdb_regs *b)
{
    size_t from = offsetof(struct gdb_regs, st), to = offsetof(struct gdb_regs, cr0);
    return !memcmp((const u8 *)a + from, (const u8 *)b + from, to - from);
}

/* What cannot be written makes the whole request fail, so that gdb does not show what is not so. */
static bool writable(const struct gdb_regs *was, const struct gdb_regs *r)
{
    return !memcmp(was->seg, r->seg, sizeof(r->seg)) &&
           !memcmp(was->seg_base, r->seg_base, 4 * sizeof(r->seg_base[0])) &&
           !memcmp(was->dr, r->dr, sizeof(r->dr)) && was->xcr0 == r->xcr0 && was->ldtr == r->ldtr &&
           was->tr == r->tr && was->ldtr_base == r->ldtr_base && was->tr_base == r->tr_base;
}

int vm_debug_set_regs(struct vcpu *v, const struct gdb_regs *r)
{
    struct cpu *c = v->cpu;
    struct gdb_regs was;
    struct popf_regs regs;
    struct err e;
    vm_debug_get_regs(v, &was);
    if (!writable(&was, r) || (!same_fpu(&was, r) && set_fpu(c, r)))
        return -1;
    vm_cpu_get_regs(v, &regs);
    memcpy(regs.gpr, r->gpr, sizeof(regs.gpr));
    if (r->pc != was.pc)
        regs.rip = (r->pc - c->seg[CS].base) & c->la_mask;
    regs.rflags = r->eflags;
    regs.fs.base = r->seg_base[FS];
    regs.gs.base = r->seg_base[GS];
    regs.cr0 = r->cr0;
    regs.cr2 = r->cr2;
    regs.cr3 = r->cr3;
    regs.cr4 = r->cr4;
    regs.cr8 = r->cr8;
    regs.efer = r->efer;
    regs.gdt_base = r->gdtr_base;
    regs.gdt_limit = (u16)r->gdtr_limit;
    regs.idt_base = r->idtr_base;
    regs.idt_limit = (u16)r->idtr_limit;
    c->kernel_gs_base = r->k_gs_base;
    return vm_cpu_set_regs(v, &regs, &e);
}

/* --- memory --- */

size_t vm_debug_read(struct vcpu *v, u64 la, void *buf, size_t n)
{
    size_t done = 0;
    v->vm->ops->get_state(v->vm->engine, v->cpu);
    while (done < n) {
        unsigned piece = (unsigned)min_u64(n - done, PAGE_SIZE - ((la + done) & PAGE_MASK));
        if (!cpu_peek(v->cpu, la + done, (u8 *)buf + done, piece))
            break;
        done += piece;
    }
    return done;
}

/* Pages that are mapped one by one; nothing is written unless all of them are. */
int vm_debug_write(struct vcpu *v, u64 la, const void *buf, size_t n)
{
    v->vm->ops->get_state(v->vm->engine, v->cpu);
    for (unsigned pass = 0; pass < 2; pass++)
        for (size_t done = 0, piece; done < n; done += piece) {
            gpa_t gpa;
            piece = min_u64(n - done, PAGE_SIZE - ((la + done) & PAGE_MASK));
            if (!cpu_translate(v->cpu, la + done, &gpa) || !mem_ptr(&v->vm->mem, gpa))
                return -1;
            if (pass && mem_write(&v->vm->mem, gpa, (const u8 *)buf + done, piece))
                return -1;
        }
    return 0;
}

void vm_debug_describe(struct vcpu *v, char *buf, size_t size)
{
    static const char *const activity[] = {[CPU_RUNNING] = "running",
                                           [CPU_HALTED] = "halted",
                                           [CPU_WAIT_SIPI] = "not started",
                                           [CPU_SHUTDOWN] = "shut down"};
    const struct cpu *c = v->cpu;
    v->vm->ops->get_state(v->vm->engine, v->cpu);
    const char *mode = c->mode == X86_MODE64   ? "64-bit"
                       : c->mode == X86_MODE32 ? "32-bit"
                                               : "16-bit";
    const char *kind = !cpu_protected(c) ? " real mode" : cpu_v86(c) ? " virtual-8086 mode" : "";
    snprintf(buf, size, "CPU %u: %s, %s%s, CPL %u", c->id, activity[c->activity], mode, kind,
             c->cpl);
}
