/*
 * guest.h - a CPU with a little memory and hand-made descriptor tables, for tests that call the C
 * bodies of instructions directly.
 */
#ifndef POPF_TEST_CPU_GUEST_H
#define POPF_TEST_CPU_GUEST_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <stdlib.h>

#include <cmocka.h>

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_event.h"
#include "cpu/cpu_far.h"
#include "cpu/cpu_mem.h"
#include "cpu/insn_far.h"
#include "cpu/insn_sys.h"

/* Where things lie in the guest's 1 MiB; paging, where on, maps it one to one. */
enum {
    AT_GDT = 0x1000,
    AT_IDT = 0x2000,
    AT_TSS = 0x3000,  /* the current task's */
    AT_TSS2 = 0x3800, /* another 32-bit one */
    AT_TSS16 = 0x3c00,
    AT_LDT = 0x4000,
    AT_CODE = 0x5000,
    AT_STACK0 = 0x8000, /* tops */
    AT_STACK3 = 0x9000,
    AT_IST1 = 0xa008, /* not aligned on purpose */
    AT_HANDLER = 0x6000,
    AT_PML4 = 0x10000,
};

/* Selectors of the GDT that guest_new() makes. */
enum {
    SEL_CODE0 = 0x08,
    SEL_DATA0 = 0x10,
    SEL_CODE3 = 0x18 | 3,
    SEL_DATA3 = 0x20 | 3,
    SEL_CONF = 0x28,   /* conforming, DPL 0 */
    SEL_ABSENT = 0x30, /* data, DPL 0, not present */
    SEL_RO = 0x38,     /* read-only data, DPL 0 */
    SEL_XO = 0x40,     /* execute-only code, DPL 0 */
    SEL_TSS = 0x48,    /* busy, the current one; 16 bytes */
    SEL_TSS2 = 0x58,
    SEL_LDT = 0x60,
    SEL_GATE32 = 0x70, /* call gate, DPL 3, to CODE0:AT_HANDLER, 2 parameters; 16 bytes */
    SEL_GATE16 = 0x80,
    SEL_CODE64 = 0x88, /* DPL 0 */
    SEL_CODE64_3 = 0x90 | 3,
    SEL_TASKGATE = 0x98,
    SEL_TSS16 = 0xa0,
    SEL_CODE0_16 = 0xa8,
    SEL_DATA0_16 = 0xb0,
    SEL_DOWN = 0xb8,   /* expand-down, DPL 0 */
    SEL_NOCODE = 0xc0, /* code, DPL 0, not present */
    SEL_BEYOND = 0x400,
};

struct guest {
    struct mem m;
    struct cpu *c;
    struct cpu_model *model;
    int vector; /* what intr_ack() answers */
    int inits;
};

static inline void put8(struct guest *g, gpa_t at, u8 v)
{
    *mem_ptr(&g->m, at) = v;
}

static inline void put16(struct guest *g, gpa_t at, u16 v)
{
    mem_write(&g->m, at, &v, 2);
}

static inline void put32(struct guest *g, gpa_t at, u32 v)
{
    mem_write(&g->m, at, &v, 4);
}

static inline void put64(struct guest *g, gpa_t at, u64 v)
{
    mem_write(&g->m, at, &v, 8);
}

static inline u16 get16(struct guest *g, gpa_t at)
{
    u16 v = 0xdead;
    mem_read(&g->m, at, &v, 2);
    return v;
}

static inline u32 get32(struct guest *g, gpa_t at)
{
    u32 v = 0xdeadbeef;
    mem_read(&g->m, at, &v, 4);
    return v;
}

static inline u64 get64(struct guest *g, gpa_t at)
{
    u64 v = 0xdeadbeef;
    mem_read(&g->m, at, &v, 8);
    return v;
}

/* access: P DPL S type; flags: G D/B L AVL */
static inline u64 make_desc(u32 base, u32 limit, u8 access, u8 flags)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
           (u64)(limit >> 16 & 0xf) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

static inline u64 make_gate(u16 sel, u32 off, u8 access, u8 low)
{
    return (off & 0xffff) | (u64)sel << 16 | (u64)low << 32 | (u64)access << 40 |
           (u64)(off >> 16) << 48;
}

static inline void set_desc(struct guest *g, u16 sel, u64 d)
{
    put64(g, AT_GDT + (sel & 0xfff8), d);
}

static inline u64 get_desc(struct guest *g, u16 sel)
{
    return get64(g, AT_GDT + (sel & 0xfff8));
}

static inline void set_gate(struct guest *g, unsigned vec, u16 sel, u32 off, u8 access, u8 ist)
{
    if (cpu_long(g->c)) {
        put64(g, AT_IDT + vec * 16, make_gate(sel, off, access, ist));
        put64(g, AT_IDT + vec * 16 + 8, 0);
    } else {
        put64(g, AT_IDT + vec * 8, make_gate(sel, off, access, 0));
    }
}

static inline int guest_intr_ack(struct cpu *c)
{
    struct guest *g = c->world_arg;
    return g->vector;
}

static inline void guest_init(struct cpu *c)
{
    struct guest *g = c->world_arg;
    g->inits++;
}

static const struct cpu_world guest_world = {.intr_ack = guest_intr_ack, .init = guest_init};

static inline void fill_gdt(struct guest *g)
{
    set_desc(g, SEL_CODE0, make_desc(0, 0xfffff, 0x9a, 0xc));
    set_desc(g, SEL_DATA0, make_desc(0, 0xfffff, 0x92, 0xc));
    set_desc(g, SEL_CODE3, make_desc(0, 0xfffff, 0xfa, 0xc));
    set_desc(g, SEL_DATA3, make_desc(0, 0xfffff, 0xf2, 0xc));
    set_desc(g, SEL_CONF, make_desc(0, 0xfffff, 0x9e, 0xc));
    set_desc(g, SEL_ABSENT, make_desc(0, 0xfffff, 0x12, 0xc));
    set_desc(g, SEL_RO, make_desc(0, 0xfffff, 0x90, 0xc));
    set_desc(g, SEL_XO, make_desc(0, 0xfffff, 0x98, 0xc));
    set_desc(g, SEL_TSS, make_desc(AT_TSS, 0xff, 0x8b, 0));
    set_desc(g, SEL_TSS2, make_desc(AT_TSS2, 0x67, 0x89, 0));
    set_desc(g, SEL_LDT, make_desc(AT_LDT, 0xff, 0x82, 0));
    set_desc(g, SEL_GATE32, make_gate(SEL_CODE0, AT_HANDLER, 0xec, 2));
    set_desc(g, SEL_GATE16, make_gate(SEL_CODE0, AT_HANDLER, 0xe4, 1));
    set_desc(g, SEL_CODE64, make_desc(0, 0xfffff, 0x9a, 0xa));
    set_desc(g, SEL_CODE64_3, make_desc(0, 0xfffff, 0xfa, 0xa));
    set_desc(g, SEL_TASKGATE, make_gate(SEL_TSS2, 0, 0xe5, 0));
    set_desc(g, SEL_TSS16, make_desc(AT_TSS16, 0x2b, 0x81, 0));
    set_desc(g, SEL_CODE0_16, make_desc(0, 0xffff, 0x9a, 0));
    set_desc(g, SEL_DATA0_16, make_desc(0, 0xffff, 0x92, 0));
    set_desc(g, SEL_DOWN, make_desc(0, 0xfff, 0x96, 0x4));
    set_desc(g, SEL_NOCODE, make_desc(0, 0xfffff, 0x1a, 0xc));
}

/* cpu: as cpu_model_parse() has it. */
static inline struct guest *guest_new_cpu(const char *cpu)
{
    struct err e = {{0}};
    struct guest *g = calloc(1, sizeof(*g));
    struct cpu_model_config cfg = {.tsc_hz = 1000000000, .apic_bus_hz = 1000000000, .ncpus = 1};
    assert_non_null(g);
    assert_int_equal(cpu_model_parse(&cfg, cpu, &e), 0);
    assert_int_equal(mem_init(&g->m, &e), 0);
    assert_int_equal(mem_add_ram(&g->m, 0, 1 * MiB, false, &e), 0);
    g->model = cpu_model_new(&cfg, &e);
    assert_non_null(g->model);
    g->c = cpu_new(0, &g->m, g->model, &guest_world, g, NULL, &e);
    assert_non_null(g->c);
    fill_gdt(g);
    return g;
}

static inline struct guest *guest_new(void)
{
    return guest_new_cpu("host");
}

static inline void guest_free(struct guest *g)
{
    cpu_free(g->c);
    cpu_model_free(g->model);
    mem_free(&g->m);
    free(g);
}

static inline void set_segment(struct guest *g, unsigned seg, u16 sel)
{
    u64 d = get_desc(g, sel);
    set_desc(g, sel, d | DESC_ACCESSED);
    cpu_set_seg(g->c, seg, sel, d);
}

/* Real mode, CS:IP = 0:AT_CODE, SS:SP = 0:AT_STACK0. */
static inline void enter_real_mode(struct guest *g)
{
    struct cpu *c = g->c;
    for (unsigned n = ES; n <= GS; n++)
        cpu_set_seg_real(c, n, 0);
    c->reg[X86_SLOT_RIP] = AT_CODE;
    c->reg[RSP] = AT_STACK0;
    c->idtr = (struct dtable){.base = 0, .limit = 0x3ff};
    cpu_update_mode(c);
}

static inline void set_privilege(struct guest *g, unsigned cpl, u16 cs, u16 ss)
{
    struct cpu *c = g->c;
    c->cpl = (u8)cpl;
    set_segment(g, CS, cs);
    set_segment(g, SS, ss);
    for (unsigned n = 0; n <= GS; n++)
        if (n != CS && n != SS)
            set_segment(g, n, cpl == 3 ? SEL_DATA3 : SEL_DATA0);
    c->reg[X86_SLOT_RIP] = AT_CODE;
    c->reg[RSP] = (cpl == 3 ? AT_STACK3 : AT_STACK0) - 0x100;
    cpu_update_mode(c);
}

static inline void set_tables(struct guest *g, u32 tss_attr)
{
    struct cpu *c = g->c;
    c->gdtr = (struct dtable){.base = AT_GDT, .limit = 0xff};
    c->idtr = (struct dtable){.base = AT_IDT, .limit = 0x7ff};
    c->ldtr = (struct seg){.attr = SEG_UNUSABLE};
    c->tr = (struct seg){.sel = SEL_TSS, .base = AT_TSS, .limit = 0xff, .attr = tss_attr};
}

/* 32-bit protected mode without paging. TSS: SS0:ESP0 = DATA0:AT_STACK0. */
static inline void enter_protected(struct guest *g, unsigned cpl)
{
    struct cpu *c = g->c;
    c->cr0 = CR0_PE | CR0_ET | CR0_NE;
    set_tables(g, SEG_P | SYS_TSS32_BUSY);
    put32(g, AT_TSS + 4, AT_STACK0);
    put16(g, AT_TSS + 8, SEL_DATA0);
    put16(g, AT_TSS + 102, 0x68 + 0x20); /* I/O map after the redirection bitmap */
    set_privilege(g, cpl, cpl == 3 ? SEL_CODE3 : SEL_CODE0, cpl == 3 ? SEL_DATA3 : SEL_DATA0);
}

static inline void enter_v86(struct guest *g, unsigned iopl)
{
    struct cpu *c = g->c;
    enter_protected(g, 0);
    c->cpl = 3;
    c->eflags |= FLAG_VM | iopl << 12;
    for (unsigned n = ES; n <= GS; n++)
        cpu_set_seg_real(c, n, (u16)(0x10 * n));
    cpu_set_seg_real(c, CS, AT_CODE >> 4);
    cpu_set_seg_real(c, SS, 0);
    c->reg[X86_SLOT_RIP] = 0x10;
    c->reg[RSP] = AT_STACK3;
    cpu_update_mode(c);
}

/* Long mode: TSS with RSP0 = AT_STACK0, IST1. The first 2 MiB mapped, for users too. */
static inline void enter_long(struct guest *g, unsigned cpl)
{
    struct cpu *c = g->c;
    put64(g, AT_PML4, (AT_PML4 + 0x1000) | PTE_P | PTE_W | PTE_U);
    put64(g, AT_PML4 + 0x1000, (AT_PML4 + 0x2000) | PTE_P | PTE_W | PTE_U);
    put64(g, AT_PML4 + 0x2000, PTE_P | PTE_W | PTE_U | PTE_PS);
    c->cr3 = AT_PML4;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
    set_tables(g, SEG_P | SYS_TSS32_BUSY);
    c->idtr.limit = 0xfff;
    put64(g, AT_TSS + 4, AT_STACK0);
    put64(g, AT_TSS + 36, AT_IST1);
    set_desc(g, SEL_LDT, make_desc(AT_LDT, 0xff, 0x82, 0));
    set_desc(g, SEL_LDT + 8, 0);
    set_privilege(g, cpl, cpl == 3 ? SEL_CODE64_3 : SEL_CODE64, cpl == 3 ? SEL_DATA3 : SEL_DATA0);
}

/* Executes one body as an engine would, as an instruction of two bytes. True if it threw. */
static inline bool execute(struct guest *g, cpu_insn_fn *fn, struct x86_insn i)
{
    struct cpu *c = g->c;
    volatile bool threw = true;
    i.len = 2;
    if (i.base == 0 && i.index == 0 && !(i.prefix & X86_PFX_MEM))
        i.base = i.index = X86_SLOT_ZERO;
    c->reg[X86_SLOT_RIP] += 2;
    c->exc.pending = false;
    if (!__builtin_setjmp(c->unwind)) {
        fn(c, &i);
        threw = false;
    } else if (!c->exc.trap) {
        c->reg[X86_SLOT_RIP] -= 2;
    }
    return threw;
}

/* Runs something that may throw. */
static inline bool attempt(struct guest *g, void (*fn)(struct cpu *c))
{
    volatile bool threw = true;
    if (!__builtin_setjmp(g->c->unwind)) {
        fn(g->c);
        threw = false;
    }
    return threw;
}

/* Delivers what is pending, and what comes of that, as an engine would. */
static inline void settle(struct guest *g)
{
    while (g->c->exc.pending) {
        cpu_exc_merge(g->c);
        if (g->c->exc.pending)
            attempt(g, cpu_deliver);
    }
}

static inline void raise_exc(struct guest *g, unsigned vec, bool has_err, u32 err)
{
    g->c->exc = (struct cpu_exc){.pending = true, .vec = (u8)vec, .has_err = has_err, .err = err};
    settle(g);
}

#define assert_threw(g, v, e)                                                                      \
    do {                                                                                           \
        assert_true((g)->c->exc.pending);                                                          \
        assert_int_equal((g)->c->exc.vec, (v));                                                    \
        assert_int_equal((g)->c->exc.err, (e));                                                    \
    } while (0)

#endif
