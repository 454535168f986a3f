/*
 * cpu.c - a virtual CPU's life: created, reset, started, its modes, its faults, its saved state.
 */
#include "cpu/cpu.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/state.h"
#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_debug.h"
#include "cpu/cpu_event.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"
#include "cpu/cpu_paging.h"
#include "cpu/cpu_seg.h"
#include "mem/va.h"

#define FLAGS_KNOWN 0x3f7fd5u /* all but the reserved bits of RFLAGS */

/* --- life --- */

/* Zeroed. NULL: errno. */
static struct cpu *allocate(void)
{
    bool spaced;
    u8 *p = va_reserve(CPU_ROOM + CPU_SPAN + CPU_WINDOW, PROT_NONE, &spaced);
    if (!p)
        return NULL;
    struct cpu *c = (struct cpu *)(p + CPU_ROOM);
    if (mprotect(c, CPU_SPAN, PROT_READ | PROT_WRITE)) {
        munmap(p, CPU_ROOM + CPU_SPAN + CPU_WINDOW);
        return NULL;
    }
    c->spaced = spaced;
    return c;
}

static void release(struct cpu *c)
{
    munmap((u8 *)c - CPU_ROOM, CPU_ROOM + CPU_SPAN + CPU_WINDOW);
}

struct cpu *cpu_new(unsigned id, struct mem *mem, const struct cpu_model *model,
                    const struct cpu_world *world, void *world_arg, const struct log *log,
                    struct err *e)
{
    struct cpu *c = allocate();
    if (!c) {
        err_errno(e, "no memory or address space for CPU %u (ulimit -v?)", id);
        return NULL;
    }
    c->id = id;
    c->mem = mem;
    c->model = model;
    c->world = world;
    c->world_arg = world_arg;
    c->log = log;
    cpu_tlb_init(c);
    c->fpu = cpu_fpu_new(c, e);
    if (!c->fpu) {
        release(c);
        return NULL;
    }
    cpu_reset(c, false);
    return c;
}

void cpu_free(struct cpu *c)
{
    if (!c)
        return;
    cpu_fpu_free(c->fpu);
    release(c);
}

static struct seg reset_seg(u32 attr)
{
    return (struct seg){.limit = 0xffff, .attr = attr};
}

static void reset_segments(struct cpu *c)
{
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = reset_seg(SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED);
    c->seg[CS].attr = SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED;
    c->seg[CS].sel = 0xf000;
    c->seg[CS].base = 0xffff0000;
    c->seg[X86_SEG_FLAT] = (struct seg){
        .rd_end = UINT64_MAX,
        .wr_end = UINT64_MAX,
        .limit = UINT32_MAX,
        .attr = SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED | SEG_DB | SEG_G,
    };
    c->ldtr = reset_seg(SEG_P | SYS_LDT);
    c->tr = reset_seg(SEG_P | SYS_TSS32_BUSY);
    c->gdtr = c->idtr = (struct dtable){.limit = 0xffff};
}

/* What INIT leaves alone and RESET does not. */
static void reset_msrs(struct cpu *c)
{
    u64 made_by_guest = c->tsc_adjust; /* all CPUs' TSCs are in step again after a reset */
    c->tsc_offset -= made_by_guest;
    c->tsc_adjust = 0;
    c->star = c->lstar = c->cstar = c->sfmask = c->kernel_gs_base = c->tsc_aux = 0;
    c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
    c->spec_ctrl = c->xss = c->debugctl = 0;
    c->pat = 0x0007040600070406;
    c->misc_enable = BIT(0) | BIT(11) | BIT(12); /* fast strings; no BTS, no PEBS */
    c->feature_control = BIT(0);                 /* locked: no VMX, no SGX */
    c->mtrr_def_type = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(c->mtrr_fixed); i++)
        c->mtrr_fixed[i] = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(c->mtrr_base); i++)
        c->mtrr_base[i] = c->mtrr_mask[i] = 0;
    c->mcg_status = 0;
    c->mcg_ctl = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(c->mc_bank); i++)
        c->mc_bank[i] = 0;
}

static void reset_pending(struct cpu *c)
{
    c->exc = (struct cpu_exc){0};
    c->delivering = -1;
    c->delivering_ext = false;
    c->shadow = c->shadow_ss = c->nmi_blocked = false;
    c->db_pending = 0;
    c->code_stale = false;
}

void cpu_reset(struct cpu *c, bool init)
{
    u32 r[4];
    for (unsigned i = 0; i < ARRAY_SIZE(c->reg); i++)
        c->reg[i] = 0;
    cpu_cpuid(c, 1, 0, r);
    c->reg[RDX] = r[0];
    c->reg[X86_SLOT_RIP] = 0xfff0;
    c->eflags = 0;
    c->aflags = aflags_pack(0);
    c->cpl = 0;
    reset_segments(c);

    u64 kept = init ? c->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW;
    c->cr0 = kept | CR0_ET;
    c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
    cpu_fpu_off(c);
    for (unsigned i = 0; i < 4; i++)
        c->dr[i] = c->pdpte[i] = 0;
    c->dr[6] = DR6_FIXED;
    c->dr[7] = DR7_FIXED;

    c->cr8_known = 0;
    reset_pending(c);
    c->activity = c->id == 0 ? CPU_RUNNING : CPU_WAIT_SIPI;
    if (!init) {
        c->xcr0 = XCR0_X87;
        reset_msrs(c);
        cpu_fpu_reset(c);
        cpu_event_clear(c, EV_NMI | EV_NMI2 | EV_INIT | EV_SIPI);
    }
    cpu_tlb_flush(c);
    cpu_update_mode(c);
}

void cpu_sipi(struct cpu *c, u8 vector)
{
    struct seg *cs = &c->seg[CS];
    cs->sel = vector << 8;
    cs->base = (u64)vector << PAGE_SHIFT;
    c->reg[X86_SLOT_RIP] = 0;
    c->activity = CPU_RUNNING;
    cpu_update_mode(c);
}

/* --- modes --- */

static void update_events(struct cpu *c)
{
    u32 mask = EV_INIT | EV_SIPI | EV_EXIT | EV_FLUSH | EV_SLOW;
    if (!c->nmi_blocked)
        mask |= EV_NMI;
    if (c->eflags & FLAG_IF)
        mask |= EV_INTR;
    c->event_mask = mask;

    u32 slow = c->eflags & FLAG_TF || c->dr[7] & 0xff || c->shadow || c->shadow_ss ||
                       c->db_pending || (unlikely(c->debug) && cpu_debug_slow(c))
                   ? EV_SLOW
                   : 0;
    if ((atomic_load_explicit(&c->events, memory_order_relaxed) & EV_SLOW) == slow)
        return;
    if (slow)
        cpu_event_set(c, EV_SLOW);
    else
        cpu_event_clear(c, EV_SLOW);
}

static enum x86_mode code_mode(const struct cpu *c)
{
    u32 attr = c->seg[CS].attr;
    if (cpu_long(c) && attr & SEG_L)
        return X86_MODE64;
    return attr & SEG_DB ? X86_MODE32 : X86_MODE16;
}

void cpu_update_mode(struct cpu *c)
{
    u8 was = c->mode;
    c->mode = code_mode(c);
    c->la_mask = c->mode == X86_MODE64 ? ~0ull : 0xffffffffull;
    cpu_paging_update(c);
    cpu_select_tlb(c);
    update_events(c);
    if (was != X86_MODE64 || c->mode != X86_MODE64)
        cpu_seg_derive(c);
}

void cpu_set_flags(struct cpu *c, u32 fl)
{
    u32 was = c->eflags;
    c->aflags = aflags_pack(fl);
    c->eflags = fl & FLAGS_KNOWN & ~FLAGS_ARITH;
    u32 changed = was ^ c->eflags;
    if (unlikely(changed & FLAG_VM)) {
        cpu_update_mode(c);
        return;
    }
    if (changed & FLAG_AC)
        cpu_select_tlb(c);
    update_events(c);
}

/* --- faults --- */

void cpu_unwind(struct cpu *c)
{
    __builtin_longjmp(c->unwind, 1);
}

static bool has_error_code(unsigned vec)
{
    const u32 with = 1u << EXC_DF | 1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS | 1u << EXC_GP |
                     1u << EXC_PF | 1u << EXC_AC;
    return vec < 32 && with >> vec & 1;
}

void cpu_throw(struct cpu *c, unsigned vec, u32 err)
{
    c->exc =
        (struct cpu_exc){.pending = true, .has_err = has_error_code(vec), .vec = vec, .err = err};
    cpu_unwind(c);
}

void cpu_throw_pf(struct cpu *c, gva_t va, u32 err)
{
    c->cr2 = va;
    cpu_throw(c, EXC_PF, err);
}

static bool uses_stack(u16 op)
{
    switch (op) {
    case X86_PUSH:
    case X86_POP:
    case X86_PUSH_SREG:
    case X86_POP_SREG:
    case X86_PUSHF:
    case X86_POPF:
    case X86_ENTER:
    case X86_LEAVE:
    case X86_CALL_NEAR:
    case X86_CALL_NEAR_IND:
    case X86_CALL_FAR_IND:
    case X86_RET_NEAR:
    case X86_RET_FAR:
    case X86_IRET:
        return true;
    default:
        return false;
    }
}

void cpu_fix_noncanonical(struct cpu *c, const struct x86_insn *i)
{
    if (!c->exc.pending || !c->exc.noncanonical)
        return;
    c->exc.noncanonical = false;
    bool operand = i->prefix & X86_PFX_MEM;
    bool flat = i->seg == X86_SEG_FLAT || i->seg == SS;
    if (operand && flat && (i->base == RSP || i->base == RBP)) {
        if (x86_row(i)->op != X86_MOVDIR64B || !x86_canonical(cpu_ea(c, i)))
            c->exc.vec = EXC_SS; /* MOVDIR64B's other address is not relative to SS */
    } else if (uses_stack(x86_row(i)->op) &&
               (!operand || x86_canonical(cpu_ea(c, i) + c->seg[i->seg].base) ||
                (x86_row(i)->op == X86_POP && !x86_canonical(c->reg[RSP])))) {
        c->exc.vec = EXC_SS; /* the operand was fine, or its turn had not come */
    }
}

/* --- saved state --- */

static void state_seg(struct state *s, struct seg *g)
{
    state_val(s, g->base);
    state_val(s, g->limit);
    state_val(s, g->attr);
    state_val(s, g->sel);
    if (s->loading)
        g->attr &= 0xf0ffu | SEG_UNUSABLE;
}

static void state_dtable(struct state *s, struct dtable *t)
{
    state_val(s, t->base);
    state_val(s, t->limit);
}

static void state_bool(struct state *s, bool *b)
{
    u8 v = *b;
    state_val(s, v);
    *b = v & 1; /* any other value of a bool would be undefined */
}

static void state_registers(struct cpu *c, struct state *s)
{
    u32 flags = cpu_flags(c);
    state_bytes(s, c->reg, 16 * sizeof(c->reg[0]));
    state_val(s, c->reg[X86_SLOT_RIP]);
    state_val(s, flags);
    state_val(s, c->cpl);
    for (unsigned i = 0; i < 6; i++)
        state_seg(s, &c->seg[i]);
    state_seg(s, &c->ldtr);
    state_seg(s, &c->tr);
    state_dtable(s, &c->gdtr);
    state_dtable(s, &c->idtr);
    if (!s->loading)
        return;
    c->aflags = aflags_pack(flags);
    c->eflags = flags & FLAGS_KNOWN & ~FLAGS_ARITH;
}

static void state_system(struct cpu *c, struct state *s)
{
    state_val(s, c->cr0);
    state_val(s, c->cr2);
    state_val(s, c->cr3);
    state_val(s, c->cr4);
    state_val(s, c->xcr0);
    state_val(s, c->efer);
    state_val(s, c->dr);
    state_val(s, c->pdpte);
}

static void state_msrs(struct cpu *c, struct state *s)
{
    state_val(s, c->star);
    state_val(s, c->lstar);
    state_val(s, c->cstar);
    state_val(s, c->sfmask);
    state_val(s, c->kernel_gs_base);
    state_val(s, c->tsc_aux);
    state_val(s, c->sysenter_cs);
    state_val(s, c->sysenter_esp);
    state_val(s, c->sysenter_eip);
    state_val(s, c->pat);
    state_val(s, c->misc_enable);
    state_val(s, c->spec_ctrl);
    state_val(s, c->xss);
    state_val(s, c->debugctl);
    state_val(s, c->bios_sign_id);
    state_val(s, c->feature_control);
    state_val(s, c->mtrr_def_type);
    state_val(s, c->mtrr_fixed);
    state_val(s, c->mtrr_base);
    state_val(s, c->mtrr_mask);
    state_val(s, c->mcg_status);
    state_val(s, c->mcg_ctl);
    state_val(s, c->mc_bank);
    state_val(s, c->tsc_adjust);
    state_val(s, c->tsc_ratio);
    state_val(s, c->tsc_offset);
}

static void state_pending(struct cpu *c, struct state *s)
{
    const u32 kept = EV_NMI | EV_NMI2 | EV_INIT | EV_SIPI;
    u32 events = atomic_load(&c->events) & kept;
    u8 sipi = atomic_load(&c->sipi_vector);
    state_bool(s, &c->exc.pending);
    state_bool(s, &c->exc.soft);
    state_bool(s, &c->exc.ext);
    state_bool(s, &c->exc.has_err);
    state_bool(s, &c->exc.trap);
    state_val(s, c->exc.vec);
    state_val(s, c->exc.err);
    state_val(s, c->delivering);
    state_bool(s, &c->delivering_ext);
    state_bool(s, &c->shadow);
    state_bool(s, &c->shadow_ss);
    state_bool(s, &c->nmi_blocked);
    state_val(s, c->db_pending);
    state_val(s, c->activity);
    state_val(s, events);
    state_val(s, sipi);
    if (!s->loading)
        return;
    cpu_event_clear(c, kept);
    cpu_event_set(c, events & kept);
    atomic_store(&c->sipi_vector, sipi);
}

static void state_fpu(struct cpu *c, struct state *s)
{
    u32 size = cpu_fpu_size(c), got = size;
    state_val(s, got);
    if (got != size)
        state_fail(s, "the saved CPU has %u bytes of FP state, this one %u", got, size);
    void *buf = aligned_alloc(64, align_up(size, 64));
    if (!buf)
        state_fail(s, "out of memory for %u bytes of FP state", size);
    if (!s->failed && !s->loading)
        cpu_fpu_get(c, buf);
    state_bytes(s, buf, size);
    if (!s->failed && s->loading && cpu_fpu_set(c, buf))
        state_fail(s, "the saved FP state is damaged");
    free(buf);
}

/* Combinations that no sequence of instructions can lead to, and this CPU model's limits. */
static const char *implausible(const struct cpu *c)
{
    u64 long_bits = EFER_LME | EFER_LMA;
    if (c->cpl > 3 || c->activity > CPU_SHUTDOWN || c->delivering < -1 || c->delivering > 255)
        return "its activity";
    if (c->cr0 & CR0_PG && !(c->cr0 & CR0_PE))
        return "CR0";
    if (c->cr4 & ~cpu_cr4_valid(c))
        return "CR4";
    if (c->efer & ~(cpu_efer_valid(c) | EFER_LMA) ||
        (cpu_long(c) && (!(c->cr0 & CR0_PG) || (c->efer & long_bits) != long_bits)))
        return "EFER";
    if (c->xcr0 & ~cpu_xcr0_valid(c) || !(c->xcr0 & XCR0_X87))
        return "XCR0";
    if (c->eflags & FLAG_VM && (c->cpl != 3 || cpu_long(c)))
        return "EFLAGS";
    return NULL;
}

void cpu_state(struct cpu *c, struct state *s)
{
    state_section(s, "cpu", 1);
    state_registers(c, s);
    state_system(c, s);
    state_msrs(c, s);
    state_pending(c, s);
    if (s->loading && !s->failed) {
        const char *what = implausible(c);
        if (what)
            state_fail(s, "the saved state of CPU %u is damaged (%s)", c->id, what);
    }
    if (!s->failed) /* the FP state's layout hangs on XCR0 */
        state_fpu(c, s);
    if (s->loading && s->failed)
        cpu_reset(c, false);
    cpu_tlb_flush(c);
    cpu_update_mode(c);
    cpu_seg_derive(c);
}
