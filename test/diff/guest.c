/*
 * guest.c - instruction sequences under an engine.
 *
 * Physical memory is where the linear addresses are (CODE, DATA with RO and STACK behind it in one
 * region so that it can be copied at once), with page tables that map it for users, and a system
 * area at physical 0 which is mapped for the supervisor in the upper half. Each exception leads to
 * a HLT of its own there: the sequence's end is read from the frame. Arriving at EXIT is known by
 * RIP: what stands there for the bare side writes to memory that the guest does not have.
 *
 * The interpreter stops a loop after BUDGET instructions. The translator does not count: a thread
 * of its own stops it with EV_EXIT, which every block looks for.
 */
#include "guest.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_seg.h"

/* Physical layout of the system area, and where it is mapped. */
#define SYS_LINEAR 0xffff800000000000ull
enum {
    AT_GDT = 0x1000,
    AT_IDT = 0x2000,
    AT_TSS = 0x3000,
    AT_LDT = 0x4000,
    AT_HANDLERS = 0x5000, /* 16 bytes per vector */
    AT_STACK0 = 0x8000,   /* top */
    AT_PML4 = 0x10000,
    SYS_SIZE = 0x20000,
};

/* More would be a loop that the generator did not mean. */
#define BUDGET 2000000

/* Runs that translate all that is run: POPF_BT_HOT (test_diff.c), that of the translation's making,
 * and one with all of it there and joined. */
#define BT_ROUNDS 4

/* After this much of the thread's own time, looked at once a tick, a round is taken for a loop. */
#define ROUND_NS 100000000
#define TICK_NS  20000000
/* Or this much in all: code that is executed directly takes none of the thread's. */
#define ROUND_MOST_NS 5000000000

struct watchdog {
    pthread_t thread;
    pthread_mutex_t lock;
    struct cpu *c;
    bool exists, running, stop;
    clockid_t clock;  /* of the thread that runs sequences: however busy the host is */
    u64 since, began; /* when this round was first seen, by that clock and in all; 0: not yet */
    struct engine *en;
};

struct guest {
    struct mem m;
    struct cpu_model *model;
    const struct engine_ops *ops;
    struct engine *en;
    struct cpu *c;
    struct watchdog dog;       /* of the translator's */
    struct seg user_seg[2][7]; /* [m64] */
    u8 *mem;
    u8 *fpu;
    gpa_t next_table;
};

static void put64(struct guest *g, gpa_t at, u64 v)
{
    mem_write(&g->m, at, &v, sizeof v);
}

static u64 get64(struct guest *g, gpa_t at)
{
    u64 v = 0;
    mem_read(&g->m, at, &v, sizeof v);
    return v;
}

/* --- paging --- */

static gpa_t table_below(struct guest *g, gpa_t entry)
{
    u64 e = get64(g, entry);
    if (!(e & PTE_P)) {
        e = g->next_table | PTE_P | PTE_W | PTE_U | PTE_A;
        g->next_table += PAGE_SIZE;
        put64(g, entry, e);
    }
    return e & 0xffffffffff000ull;
}

static void map(struct guest *g, gva_t la, gpa_t gpa, u64 size, u64 flags)
{
    for (u64 off = 0; off < size; off += PAGE_SIZE, la += PAGE_SIZE, gpa += PAGE_SIZE) {
        gpa_t t = AT_PML4;
        for (int shift = 39; shift > 12; shift -= 9)
            t = table_below(g, t + (la >> shift & 511) * 8);
        put64(g, t + (la >> 12 & 511) * 8, gpa | flags | PTE_P | PTE_A | PTE_D);
    }
}

static void make_paging(struct guest *g)
{
    g->next_table = AT_PML4 + PAGE_SIZE;
    map(g, SYS_LINEAR, 0, SYS_SIZE, PTE_W);
    map(g, CODE, CODE, CODE_SIZE + PAGE_SIZE, PTE_U);
    map(g, DATA, DATA, DATA_SIZE, PTE_U | PTE_W | PTE_NX);
    map(g, RO, RO, PAGE_SIZE, PTE_U | PTE_NX);
    map(g, STACK, RO + PAGE_SIZE, PAGE_SIZE, PTE_U | PTE_W | PTE_NX);
}

/* --- descriptors --- */

static u64 descriptor(u32 base, u32 limit, u32 access, u32 flags)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
           (u64)(limit >> 16 & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

static void put_system(struct guest *g, gpa_t at, u64 base, u32 limit, u32 access)
{
    put64(g, at, descriptor((u32)base, limit, access, 0));
    put64(g, at + 8, base >> 32);
}

/* As Linux lays it out. */
static void make_gdt(struct guest *g)
{
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((unsigned)sched_getcpu(), &here);
    sched_setaffinity(0, sizeof here, &here); /* or LSL would tell the difference */
    put64(g, AT_GDT + 0x08, descriptor(0, 0xfffff, 0x9b, 0xc));
    put64(g, AT_GDT + 0x10, descriptor(0, 0xfffff, 0x9b, 0xa));
    put64(g, AT_GDT + 0x18, descriptor(0, 0xfffff, 0x93, 0xc));
    put64(g, AT_GDT + 0x20, descriptor(0, 0xfffff, 0xfb, 0xc));
    put64(g, AT_GDT + 0x28, descriptor(0, 0xfffff, 0xf3, 0xc));
    put64(g, AT_GDT + 0x30, descriptor(0, 0xfffff, 0xfb, 0xa));
    /* Its limit says which CPU this is. */
    u32 limit = 0;
    __asm__("lsl %1, %0" : "+r"(limit) : "r"(0x7b));
    put64(g, AT_GDT + 0x78, descriptor(0, limit, 0xf5, 4));
    put_system(g, AT_GDT + 0x40, SYS_LINEAR + AT_TSS, 0x67, 0x8b);
    put_system(g, AT_GDT + 0x50, SYS_LINEAR + AT_LDT, LDT_N * 8 - 1, 0x82);
    for (unsigned i = 1; i < LDT_N; i++) {
        const struct ldt_entry *l = &diff_ldt[i];
        bool pages = l->limit > 0xfffff;
        u32 type = (l->ro ? 0 : 2) | l->contents << 2 | 1;
        put64(
            g, AT_LDT + 8 * i,
            descriptor(l->base, pages ? l->limit >> 12 : l->limit, 0xf0 | type, pages ? 0xc : 0x4));
    }
}

static void make_idt(struct guest *g)
{
    for (unsigned v = 0; v < 256; v++) {
        u64 to = SYS_LINEAR + AT_HANDLERS + 16 * v;
        u64 dpl = v == EXC_BP || v == EXC_OF || v == 0x80 ? 3 : 0;
        u64 lo = (to & 0xffff) | 0x10 << 16 | (0x8e | dpl << 5) << 40 | (to >> 16 & 0xffff) << 48;
        put64(g, AT_IDT + 16 * v, lo);
        put64(g, AT_IDT + 16 * v + 8, to >> 32);
        *mem_ptr(&g->m, AT_HANDLERS + 16 * v) = 0xf4;
    }
    put64(g, AT_TSS + 4, SYS_LINEAR + AT_STACK0);
    put64(g, AT_TSS + 0x66 - 6, 0xffffull << 48); /* no I/O bitmap */
}

/* --- the watchdog --- */

static u64 time_of(clockid_t clock)
{
    struct timespec ts = {0};
    clock_gettime(clock, &ts);
    return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

static void look(struct watchdog *w)
{
    u64 now = time_of(w->clock), all = time_of(CLOCK_MONOTONIC);
    if (!w->since) {
        w->since = now;
        w->began = all;
    } else if (now - w->since >= ROUND_NS || all - w->began >= ROUND_MOST_NS) {
        cpu_event_set(w->c, EV_EXIT);
        w->en->ops->kick(w->en, w->c);
    }
}

static void *watch(void *arg)
{
    struct watchdog *w = arg;
    const struct timespec tick = {.tv_nsec = TICK_NS};
    for (bool stop = false; !stop;) {
        nanosleep(&tick, NULL);
        pthread_mutex_lock(&w->lock);
        if (w->running)
            look(w);
        stop = w->stop;
        pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

/* Without signals: those of bare.c are for the thread that runs sequences. */
static int start_watchdog(struct watchdog *w, struct engine *en, struct cpu *c, struct err *e)
{
    sigset_t all, was;
    w->c = c;
    w->en = en;
    pthread_mutex_init(&w->lock, NULL);
    pthread_getcpuclockid(pthread_self(), &w->clock);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &was);
    int rc = pthread_create(&w->thread, NULL, watch, w);
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    w->exists = !rc;
    return rc ? err_set(e, "pthread_create: %s", strerror(rc)) : 0;
}

static void stop_watchdog(struct watchdog *w)
{
    if (!w->exists)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
}

static void set_running(struct watchdog *w, bool running)
{
    pthread_mutex_lock(&w->lock);
    w->running = running;
    w->since = 0;
    pthread_mutex_unlock(&w->lock);
    if (!running)
        cpu_event_clear(w->c, EV_EXIT);
}

/* --- the CPU --- */

static void make_segments(struct guest *g)
{
    static const u16 sel[2][6] = {
        {[ES] = SEL_DS, [CS] = SEL_CS32, [SS] = SEL_DS, [DS] = SEL_DS},
        {[CS] = SEL_CS64, [SS] = SEL_DS},
    };
    struct cpu *c = g->c;
    for (unsigned m64 = 0; m64 < 2; m64++) {
        for (unsigned s = ES; s <= GS; s++) {
            if (sel[m64][s])
                cpu_set_seg(c, s, sel[m64][s], get64(g, AT_GDT + (sel[m64][s] & ~7u)));
            else
                c->seg[s] = (struct seg){.attr = SEG_UNUSABLE};
        }
        memcpy(g->user_seg[m64], c->seg, sizeof g->user_seg[m64]);
    }
}

static void set_system(struct guest *g)
{
    struct cpu *c = g->c;
    c->cr3 = AT_PML4;
    c->cr4 = (CR4_PAE | CR4_DE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE |
              CR4_FSGSBASE | CR4_UMIP) &
             (u32)cpu_cr4_valid(c);
    c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    c->xcr0 = cpu_xcr0_valid(c);
    c->gdtr = (struct dtable){.base = SYS_LINEAR + AT_GDT, .limit = 0x7f};
    c->idtr = (struct dtable){.base = SYS_LINEAR + AT_IDT, .limit = 0xfff};
    c->tr = (struct seg){
        .sel = 0x40, .base = SYS_LINEAR + AT_TSS, .limit = 0x67, .attr = SEG_P | SYS_TSS32_BUSY};
    c->ldtr = (struct seg){
        .sel = 0x50, .base = SYS_LINEAR + AT_LDT, .limit = LDT_N * 8 - 1, .attr = SEG_P | SYS_LDT};
    cpu_update_mode(c);
}

static u64 no_port(struct cpu *c, u16 port, unsigned size)
{
    return ~0ull;
}

static void no_write(struct cpu *c, u16 port, unsigned size, u64 val)
{
}

static u64 no_mmio(struct cpu *c, gpa_t gpa, unsigned size)
{
    return ~0ull;
}

static void no_mmio_write(struct cpu *c, gpa_t gpa, unsigned size, u64 val)
{
}

static int no_msr(struct cpu *c, u32 msr, u64 *val)
{
    return -1;
}

static int no_msr_write(struct cpu *c, u32 msr, u64 val)
{
    return -1;
}

static u64 no_cr8(struct cpu *c)
{
    return 0;
}

static void no_cr8_write(struct cpu *c, u64 val)
{
}

static int no_intr(struct cpu *c)
{
    return -1;
}

static const struct cpu_world world = {
    .port_read = no_port,
    .port_write = no_write,
    .mmio_read = no_mmio,
    .mmio_write = no_mmio_write,
    .msr_read = no_msr,
    .msr_write = no_msr_write,
    .cr8_read = no_cr8,
    .cr8_write = no_cr8_write,
    .intr_ack = no_intr,
};

static int make_memory(struct guest *g, struct err *e)
{
    if (mem_init(&g->m, e) || mem_add_ram(&g->m, 0, SYS_SIZE, false, e) ||
        mem_add_ram(&g->m, CODE, CODE_SIZE + PAGE_SIZE, false, e) ||
        mem_add_ram(&g->m, DATA, MEM_SIZE, false, e))
        return -1;
    g->mem = mem_ptr(&g->m, DATA);
    return 0;
}

static int make_cpu(struct guest *g, struct err *e)
{
    struct cpu_model_config cfg = {.tsc_hz = 2000000000, .apic_bus_hz = 1000000000, .ncpus = 1};
    g->model = cpu_model_new(&cfg, e);
    if (!g->model)
        return -1;
    /* As many CPUs share the interpreter's memory: a small cache is flushed often. */
    struct engine_config ec = {.mem = &g->m, .model = g->model, .ncpus = 16};
    g->en = g->ops->create(&ec, e);
    g->c = g->en ? cpu_new(0, &g->m, g->model, &world, g, NULL, e) : NULL;
    if (!g->c || g->ops->cpu_attach(g->en, g->c, e))
        return -1;
    g->fpu = aligned_alloc(64, FPU_MAX);
    if (!g->fpu || cpu_fpu_size(g->c) > FPU_MAX)
        return err_set(e, "FP state of %u bytes", cpu_fpu_size(g->c));
    memset(g->fpu, 0, FPU_MAX);
    return g->ops == &engine_bt ? start_watchdog(&g->dog, g->en, g->c, e) : 0;
}

struct guest *guest_new(const struct engine_ops *ops, struct err *e)
{
    struct guest *g = calloc(1, sizeof *g);
    if (!g) {
        err_set(e, "out of memory");
        return NULL;
    }
    g->ops = ops;
    if (make_memory(g, e) || make_cpu(g, e))
        return NULL; /* the program ends */
    make_paging(g);
    make_gdt(g);
    make_idt(g);
    set_system(g);
    make_segments(g);
    return g;
}

void guest_free(struct guest *g)
{
    stop_watchdog(&g->dog);
    g->ops->cpu_detach(g->en, g->c);
    cpu_free(g->c);
    g->ops->destroy(g->en);
    cpu_model_free(g->model);
    mem_free(&g->m);
    free(g->fpu);
    free(g);
}

/* --- a run --- */

static void load_segments(struct guest *g, const struct input *in)
{
    struct cpu *c = g->c;
    memcpy(c->seg, g->user_seg[in->m64], sizeof g->user_seg[0]);
    c->seg[FS].base = in->r.fs_base;
    c->seg[GS].base = in->r.gs_base;
    for (unsigned s = FS; s <= GS; s++) {
        u16 sel = in->r.sel[s];
        if (sel)
            cpu_set_seg(c, s, sel, get64(g, (sel & 4 ? AT_LDT : AT_GDT) + (sel & ~7u)));
    }
}

static void load(struct guest *g, const struct input *in)
{
    struct cpu *c = g->c;
    memcpy(c->reg, in->r.reg, sizeof in->r.reg);
    c->reg[X86_SLOT_RIP] = in->r.rip;
    c->cpl = 3;
    c->exc = (struct cpu_exc){0};
    c->delivering = -1;
    c->shadow = c->shadow_ss = false;
    c->db_pending = 0;
    c->activity = CPU_RUNNING;
    c->cr2 = 0;
    c->dr[6] = DR6_FIXED;
    load_segments(g, in);
    cpu_set_flags(c, (u32)in->r.rflags);
    cpu_update_mode(c);
    cpu_seg_derive(c);
    if (in->fpu)
        cpu_fpu_set(c, in->fpu);
}

/* The frame that the exception has pushed; false if the guest did not end in a handler. */
static bool take_frame(struct guest *g, struct outcome *out)
{
    struct cpu *c = g->c;
    u64 at = c->reg[X86_SLOT_RIP] - 1 - (SYS_LINEAR + AT_HANDLERS);
    if (at >= 256 * 16 || at & 15)
        return false;
    out->vec = (int)(at / 16);
    gpa_t frame = c->reg[RSP] - SYS_LINEAR;
    if (frame == AT_STACK0 - 48) {
        out->err = (u32)get64(g, frame);
        frame += 8;
    } else if (frame != AT_STACK0 - 40) {
        return false;
    }
    out->r.rip = get64(g, frame);
    out->r.sel[CS] = (u16)get64(g, frame + 8);
    out->r.rflags = get64(g, frame + 16);
    out->r.reg[RSP] = get64(g, frame + 24);
    out->r.sel[SS] = (u16)get64(g, frame + 32);
    return true;
}

/* Data pages pass for such that code was decoded from: stores there leave the translation. */
static void mark_code(struct guest *g, bool mark)
{
    const struct mem_region *r = mem_find(&g->m, DATA);
    for (unsigned n = 0; n < MEM_PAGES; n++) {
        u64 page = mem_page(r, DATA + n * PAGE_SIZE);
        if (mark)
            mem_code_mark(&g->m, page, ~0ull);
        else
            mem_code_written(&g->m, page, 0, 64);
    }
}

static void run_once(struct guest *g, const struct input *in, u64 budget, struct engine_result *res)
{
    memcpy(g->mem, in->mem, MEM_SIZE);
    load(g, in);
    g->ops->run(g->en, g->c, budget, res);
}

/* The start's low bits choose: stores as they are translated for several CPUs (they look for code
 * afterwards), and data pages with code. */
static void run_translated(struct guest *g, const struct input *in, struct engine_result *res)
{
    bool code = (in->r.rip & 6) == 6;
    g->m.shared = in->r.rip & 1;
    *res = (struct engine_result){.exit = EXIT_HALT};
    for (unsigned n = 0; n < BT_ROUNDS && res->exit == EXIT_HALT; n++) {
        if (code)
            mark_code(g, true);
        set_running(&g->dog, true);
        run_once(g, in, 0, res);
        set_running(&g->dog, false);
    }
    if (code)
        mark_code(g, false);
}

void guest_run(struct guest *g, const struct input *in, struct outcome *out)
{
    struct cpu *c = g->c;
    struct engine_result res;
    if (g->ops == &engine_bt)
        run_translated(g, in, &res);
    else
        run_once(g, in, BUDGET, &res);

    *out = (struct outcome){.vec = END_HANG, .cr2 = c->cr2};
    memcpy(out->r.reg, c->reg, sizeof out->r.reg);
    for (unsigned s = ES; s <= GS; s++)
        out->r.sel[s] = c->seg[s].sel;
    out->r.fs_base = c->seg[FS].base;
    out->r.gs_base = c->seg[GS].base;
    out->r.rip = c->reg[X86_SLOT_RIP];
    out->r.rflags = cpu_flags(c);
    if (res.exit == EXIT_HALT && take_frame(g, out) && (out->r.rip == EXIT || out->r.rip == EXIT32))
        out->vec = END_DONE;
    if (in->fpu)
        cpu_fpu_get(c, g->fpu);
}

void guest_code(struct guest *g, u32 at, const u8 *bytes, unsigned len)
{
    mem_write(&g->m, at, bytes, len);
}

u8 *guest_mem(struct guest *g)
{
    return g->mem;
}

const u8 *guest_fpu(struct guest *g)
{
    return g->fpu;
}

unsigned guest_fpu_size(struct guest *g)
{
    return cpu_fpu_size(g->c);
}

u64 guest_xcr0(struct guest *g)
{
    return cpu_xcr0_valid(g->c);
}

bool guest_has(struct guest *g, enum x86_feature f)
{
    return f == X86_F_BASE || cpu_has(g->c, f);
}
