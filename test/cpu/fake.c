#include "fake.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_event.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_seg.h"

static struct fake *fake_of(const struct cpu *c)
{
    return c->world_arg;
}

/* --- the world --- */

static void note(struct cpu *c, char what, u64 addr, unsigned size, u64 val)
{
    struct fake *f = fake_of(c);
    if (f->nlog < FAKE_LOG)
        f->log[f->nlog++] = (struct fake_access){what, addr, size, val};
}

static u64 mmio_read(struct cpu *c, gpa_t gpa, unsigned size)
{
    u64 v = fake_of(c)->mmio_value;
    note(c, 'r', gpa, size, v);
    return v;
}

static void mmio_write(struct cpu *c, gpa_t gpa, unsigned size, u64 val)
{
    note(c, 'w', gpa, size, val);
}

static int msr_read(struct cpu *c, u32 msr, u64 *val)
{
    note(c, 'R', msr, 0, 0);
    *val = 0x1234 | fake_of(c)->apic_base;
    return msr == MSR_IA32_APIC_BASE ? 0 : -1;
}

static int msr_write(struct cpu *c, u32 msr, u64 val)
{
    note(c, 'W', msr, 0, val);
    return msr == MSR_IA32_APIC_BASE ? 0 : -1;
}

static u64 cr8_read(struct cpu *c)
{
    return fake_of(c)->cr8;
}

static void cr8_write(struct cpu *c, u64 val)
{
    fake_of(c)->cr8 = val;
}

static const struct cpu_world world = {
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .msr_read = msr_read,
    .msr_write = msr_write,
    .cr8_read = cr8_read,
    .cr8_write = cr8_write,
};

/* --- what cpu/ links to --- */

struct cpu_fpu {
    u8 state[512];
};

struct cpu_fpu *cpu_fpu_new(struct cpu *c, struct err *e)
{
    return calloc(1, sizeof(struct cpu_fpu));
}

void cpu_fpu_free(struct cpu_fpu *f)
{
    free(f);
}

void cpu_fpu_reset(struct cpu *c)
{
}

unsigned cpu_fpu_size(const struct cpu *c)
{
    return sizeof(struct cpu_fpu);
}

void cpu_fpu_get(struct cpu *c, void *buf)
{
    memcpy(buf, c->fpu, sizeof(*c->fpu));
}

int cpu_fpu_set(struct cpu *c, const void *buf)
{
    memcpy(c->fpu, buf, sizeof(*c->fpu));
    return 0;
}

void cpu_leave(struct cpu *c)
{
    fake_of(c)->leaves++;
}

void cpu_cpuid(const struct cpu *c, u32 leaf, u32 subleaf, u32 out[4])
{
    const struct fake *f = fake_of(c);
    memset(out, 0, 16);
    if (leaf == 0)
        out[1] = f->amd ? 0x68747541 : 0x756e6547;
    else if (leaf == 1)
        out[0] = 0x000806f8, out[3] = 1u << 9;
    else if (leaf == 7)
        out[1] = 1u << 1, out[3] = f->leaf7_edx;
    else if (leaf == 0x80000001)
        out[3] = f->no_1g ? 0 : 1u << 26;
    else if (leaf == 0x80000008)
        out[1] = f->leaf80000008_ebx;
}

bool cpu_has(const struct cpu *c, enum x86_feature feature)
{
    return feature != X86_F_PKU && feature != X86_F_MONITOR;
}

u64 cpu_cr4_valid(const struct cpu *c)
{
    return fake_of(c)->cr4_valid;
}

u64 cpu_efer_valid(const struct cpu *c)
{
    return fake_of(c)->efer_valid;
}

u64 cpu_xcr0_valid(const struct cpu *c)
{
    return fake_of(c)->xcr0_valid;
}

unsigned cpu_phys_bits(const struct cpu *c)
{
    return fake_of(c)->phys_bits;
}

u64 cpu_model_arch_capabilities(const struct cpu *c)
{
    return 0xabc;
}

/* Only what flat segments need; limits are tested through cpu_seg_check(). */
void cpu_seg_derive(struct cpu *c)
{
    for (unsigned i = 0; i < 6; i++) {
        bool quick =
            c->mode == X86_MODE64 || !(c->seg[i].attr & (SEG_UNUSABLE | SEG_CODE | SEG_EXPDOWN));
        u64 end = c->mode == X86_MODE64 ? UINT64_MAX : c->seg[i].limit + 1ull;
        c->seg[i].rd_end = quick ? end : 0;
        c->seg[i].wr_end = quick && c->seg[i].attr & SEG_WRITABLE ? end : 0;
    }
}

bool cpu_page_watched(const struct cpu *c, gva_t page)
{
    return fake_of(c)->watched == page;
}

void cpu_note_data_breakpoint(struct cpu *c, gva_t la, unsigned size, bool write)
{
    struct fake *f = fake_of(c);
    if ((la & ~PAGE_MASK) != f->watched)
        return;
    f->hits++;
    f->hit_la = la;
    f->hit_size = size;
    f->hit_write = write;
}

/* --- making one --- */

void fake_init(struct fake *f)
{
    struct err e;
    *f = (struct fake){
        .phys_bits = 40,
        .watched = 1,
        .mmio_value = 0x1122334455667788,
        .cr4_valid = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE |
                     CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE |
                     CR4_OSXSAVE | CR4_SMEP | CR4_SMAP,
        .efer_valid = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE,
        .xcr0_valid = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM,
        .leaf7_edx = 1u << 26 | 1u << 27 | 1u << 28 | 1u << 29 | 1u << 31,
    };
    if (mem_init(&f->mem, &e) || mem_add_ram(&f->mem, 0, 16 * MiB, false, &e) ||
        mem_add_ram(&f->mem, FAKE_ROM, MiB, true, &e) ||
        mem_add_ram(&f->mem, FAKE_HIGH, 8 * MiB, false, &e))
        abort();
    f->c = cpu_new(0, &f->mem, NULL, &world, f, NULL, &e);
    if (!f->c)
        abort();
}

void fake_free(struct fake *f)
{
    cpu_free(f->c);
    mem_free(&f->mem);
}

void fake_segments(struct fake *f, enum x86_mode mode)
{
    struct cpu *c = f->c;
    for (unsigned i = 0; i < 6; i++) {
        c->seg[i].sel = i == CS ? 8 : 16;
        c->seg[i].base = 0;
        c->seg[i].limit = 0xffffffff;
        c->seg[i].attr = SEG_P | SEG_S | SEG_ACCESSED | SEG_WRITABLE | SEG_G |
                         (i != CS              ? SEG_DB
                          : mode == X86_MODE64 ? SEG_L
                                               : SEG_DB) |
                         (i == CS ? SEG_CODE : 0);
    }
}

void fake_mode(struct fake *f, enum x86_mode mode, unsigned cpl)
{
    struct cpu *c = f->c;
    c->cr0 |= CR0_PE;
    fake_segments(f, mode);
    c->cpl = cpl;
    cpu_update_mode(c);
    cpu_tlb_flush(c);
}
