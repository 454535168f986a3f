/*
 * cpu.h - one virtual CPU: its registers and pending events, and what it asks of its world.
 *
 * The state here is what every engine agrees on. The interpreter and the translator work on it
 * directly; the KVM engine copies it in and out (engine.h).
 *
 * Conventions of the C bodies of instructions (cpu_insn_fn):
 *   - when a body is called, reg[X86_SLOT_RIP] already names the next instruction;
 *   - a fault is raised by cpu_throw(), which does not return: it unwinds to the engine, which puts
 *     RIP back to the instruction's start. So nothing may be committed before the last thing that
 *     can fault, and RIP and RSP are written last. Memory already written (a PUSHA that faults in
 *     the middle) is as the manual allows.
 *   - this folder and the engines are compiled without vector instructions, because the guest's
 *     vector state stays loaded in the host's registers while guest code runs (cpu_fpu.h). No libc
 *     function that might use them may be called in between, memcpy() included: use cpu_copy().
 *     Calls out to the world save the state first (cpu_leave).
 */
#ifndef POPF_CPU_H
#define POPF_CPU_H

#include <stdatomic.h>

#include "mem/mem.h"
#include "x86/x86.h"
#include "x86/x86_insn.h"

struct cpu;
struct cpu_fpu;   /* cpu_fpu.c: host execution of FP and SIMD */
struct cpu_model; /* cpu_cpuid.h: the CPU shown to the guest */
struct cpu_debug; /* cpu_debug.h */
struct state;     /* base/state.h */
struct shadow;    /* cpu_shadow.h */

typedef void cpu_insn_fn(struct cpu *c, const struct x86_insn *i);

/* A segment register with its hidden part. */
struct seg {
    u64 base;
    /* Offsets may be read (written) while offset + size <= rd_end (wr_end). 0 where the quick
     * check does not apply (unusable, expand-down, wrong type): cpu_seg_check() decides then.
     * UINT64_MAX in 64-bit code. Derived by cpu_seg_derive(). */
    u64 rd_end, wr_end;
    u32 limit; /* in bytes, granularity applied */
    u32 attr;  /* SEG_x */
    u16 sel;
};

/*
 * What loading a selector of the GDT, or none, made of a data segment register in 32-bit protected
 * mode at CPL 0, while the descriptor was `raw`. For emitted code (bt_sys.S); by seg_known_slot().
 */
struct seg_known {
    u32 key;  /* selector, or'ed with SEG_KNOWN; 0: unused */
    u32 flat; /* 1: base 0, no limit, may be written */
    u64 raw;
    struct seg seg;
} __attribute__((aligned(64)));
#define SEG_KNOWN       BIT(16)
#define SEG_KNOWN_SLOTS 8u
static inline unsigned seg_known_slot(u16 sel)
{
    return sel >> 3 & (SEG_KNOWN_SLOTS - 1);
}

struct dtable {
    u64 base;
    u16 limit;
};

/* Software TLB for data. Tags are the page's linear address, or TLB_NONE. */
#define TLB_BITS 10
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_NONE 0x800ull /* matches no address with bits 6 to 11 clear, as a translator has it */

/* Folded, so that pages at large powers of two from each other do not share a slot. The translator
 * emits the same (engine/bt/bt_mem.c). */
static inline unsigned tlb_slot(u64 la)
{
    return (unsigned)(la >> PAGE_SHIFT ^ la >> (PAGE_SHIFT + TLB_BITS)) & (TLB_SIZE - 1);
}

struct tlb_entry {
    u64 rd;            /* tag: reads may go straight to RAM */
    u64 wr;            /* tag: so may writes (dirty bit already set) */
    u64 addend;        /* host address - linear address */
    _Atomic u64 *code; /* the page's word of mem->code_map: tested after each write */
};

/* Which of the TLBs: who is asking. ORDER TLB_MODE with cpu_update_mode(). */
enum tlb_mode {
    TLB_KERNEL,      /* CPL 0..2, user pages allowed (no SMAP, or EFLAGS.AC) */
    TLB_KERNEL_SMAP, /* CPL 0..2, user pages denied */
    TLB_USER,        /* CPL 3 */
    TLB_STRICT,      /* never filled: every access takes the slow path (alignment checks) */
    TLB_MODES
};

/* Software TLB for instruction fetch, one for CPL 0..2 and one for CPL 3. */
#define ITLB_SIZE 256u
struct itlb_entry {
    u64 tag;  /* page's linear address, or TLB_NONE */
    u8 *host; /* page in host memory */
    gpa_t gpa;
    u64 page; /* index for mem_code_*() */
};

/* What a TLB or ITLB holds, so that a flush costs no more than what it drops. */
struct tlb_index {
    u64 used[TLB_SIZE / 64];  /* a bit per slot */
    u64 local[TLB_SIZE / 64]; /* likewise, of those that are not global */
    u8 meta[TLB_SIZE];        /* by slot: log2 of the guest page's size, or'ed with TLB_GLOBAL */
};
#define TLB_GLOBAL 0x80

/*
 * Where large pages have been found since all was flushed last, hashed: by 4 MiB, and by 1 GiB for
 * those of that size. Bits that are not set spare INVLPG a look at all that came from large pages.
 */
#define LARGE_SEEN_BITS 10
#define HUGE_SEEN_BITS  7
struct large_seen {
    u64 large[1u << (LARGE_SEEN_BITS - 6)];
    u64 huge[1u << (HUGE_SEEN_BITS - 6)];
};

/*
 * Where code positions have been found since map_epoch changed last, hashed: bits that are not set
 * spare INVLPG a new epoch. By page, and by 2 MiB for those in large pages.
 */
#define CODE_SEEN_BITS  14
#define CODE_LARGE_BITS 10
struct code_seen {
    u64 page[1u << (CODE_SEEN_BITS - 6)];
    u64 large[1u << (CODE_LARGE_BITS - 6)];
    bool supervisor; /* CPL 0..2, in a page that is not global */
};

/*
 * An address space: its code positions of CPL 3 hold again when CR3 is loaded with this and without
 * a flush; and after a flush, too, if the pages that they are in are where they were.
 */
#define CPU_CONTEXTS  8
#define CONTEXT_PAGES 12
#define CPU_DROPPED   32
struct cpu_context {
    u64 cr3;
    u16 user_epoch; /* 0: unused */
    bool unsure;    /* flushed since */
    u32 space_epoch;
    u8 npages; /* more than CONTEXT_PAGES: not all are listed */
    struct {
        gva_t la;
        gpa_t gpa;
    } page[CONTEXT_PAGES];
};

/* Things that make a running CPU look up; set from any thread with cpu_event_set(). */
#define EV_INTR  (1u << 0) /* a maskable interrupt is deliverable: a level, its source clears it */
#define EV_NMI   (1u << 1)
#define EV_INIT  (1u << 2)
#define EV_SIPI  (1u << 3) /* vector in sipi_vector */
#define EV_EXIT  (1u << 4) /* leave run() with CPU_EXIT_INTERRUPTED */
#define EV_FLUSH (1u << 5) /* memory map changed: drop all cached translations */
#define EV_NMI2  (1u << 7) /* with EV_NMI: one more behind it. cpu_nmi_raise() */
#define EV_SLOW  (1u << 6) /* this CPU's own: TF, breakpoints, shadows: step by step */

enum cpu_activity { CPU_RUNNING, CPU_HALTED, CPU_WAIT_SIPI, CPU_SHUTDOWN };

/* An exception or interrupt on its way in. */
struct cpu_exc {
    bool pending;
    bool soft; /* INT n, INT3, INTO: DPL is checked, return address is the next instruction */
    bool ext;  /* external interrupt or NMI (EXT bit in error codes of nested faults) */
    bool has_err;
    bool trap; /* reported after the instruction: RIP stays at the next one */
    /* #GP(0) for a non-canonical operand: #SS(0) if the instruction goes by the stack, which only
     * the engine can tell: cpu_fix_noncanonical(). */
    bool noncanonical;
    u8 vec;
    u32 err;
};

/*
 * What a virtual CPU cannot answer itself. Called on the vCPU's own thread. The implementation
 * takes whatever locks it needs. `size` is 1, 2, 4 or 8 bytes.
 */
struct cpu_world {
    u64 (*port_read)(struct cpu *c, u16 port, unsigned size);
    void (*port_write)(struct cpu *c, u16 port, unsigned size, u64 val);
    /* Physical accesses that are not RAM, the local APIC's page included; also writes to ROM. */
    u64 (*mmio_read)(struct cpu *c, gpa_t gpa, unsigned size);
    void (*mmio_write)(struct cpu *c, gpa_t gpa, unsigned size, u64 val);
    /* MSRs that belong to the machine: APIC base, x2APIC, TSC deadline, paravirtual clock. Return
     * 0, or -1 for #GP(0). Only called for MSRs that cpu_msr.c does not keep itself. */
    int (*msr_read)(struct cpu *c, u32 msr, u64 *val);
    int (*msr_write)(struct cpu *c, u32 msr, u64 val);
    /* CR8 = bits 7:4 of the local APIC's task priority. */
    u64 (*cr8_read)(struct cpu *c);
    void (*cr8_write)(struct cpu *c, u64 val);
    /* Acknowledges the highest-priority interrupt: its vector, or -1 if it has gone away. */
    int (*intr_ack)(struct cpu *c);
    /* VMCALL/VMMCALL. 0, or -1 for #UD. NULL: #UD. */
    int (*hypercall)(struct cpu *c);
    /* INIT was taken: reset the local APIC. May be NULL. */
    void (*init)(struct cpu *c);
};

struct cpu {
    /* --- what emitted and hot code touches comes first --- */
    u64 reg[18]; /* GPRs by number; [X86_SLOT_ZERO] is 0, [X86_SLOT_RIP] is RIP */
    u16 aflags;  /* the six arithmetic flags: high byte as LAHF gives them, low byte OF as SETO */
    u8 mode;     /* enum x86_mode of the code being run */
    u8 cpl;
    u32 eflags;            /* RFLAGS without FLAGS_ARITH */
    _Atomic u32 events;    /* EV_x */
    u32 event_mask;        /* the events that matter now (EV_INTR only while IF is set) */
    _Atomic u32 poll;      /* not 0: look at the events. Set with them, cleared by the engine */
    struct tlb_entry *tlb; /* of the current enum tlb_mode */
    u64 la_mask;           /* linear addresses: ~0 in long mode's 64-bit code, else 2^32-1 */
    struct seg seg[7];     /* ES..GS, and X86_SEG_FLAT */
    /* What cached code positions (RIP -> code) are good for: any of them for one value of
     * map_epoch, those of CPL 3 for one value of user_epoch besides, which is never 0 and comes
     * back with its address space (PCID). Mode and privilege are part of their key. */
    u32 map_epoch;
    u16 user_epoch;
    bool code_stale; /* the last store hit decoded code: leave the block */
    /* By enum cpu_fpu_level: 0 while emitted FP code may run as it is (cpu_fpu.h). */
    u8 fpu_off[4] __attribute__((aligned(4)));
    /* The last x87 instruction that emitted code ran, X87_LAST_x; 0: cpu_fpu.c has it. */
    u32 x87_last;
    u16 x87_seg;                 /* segment of its memory operand + 1, 0: none since */
    u64 x87_page;                /* RIP of its page */
    u64 x87_dp;                  /* offset of its memory operand */
    u64 x87_ea;                  /* of an operand that may turn out not to be there */
    const struct x86_insn *insn; /* being executed; NULL between instructions */
    void *unwind[5];             /* __builtin_setjmp buffer of the engine's loop */

    /* Words of an engine's emitted code, which reaches struct cpu through a segment base. */
    u64 emitted[32];

    /* --- system registers --- */
    u64 cr0, cr2, cr3, cr4, xcr0, efer;
    u64 dr[8]; /* 4 and 5 unused */
    struct seg ldtr, tr;
    struct dtable gdtr, idtr;
    u64 pdpte[4]; /* PAE page-directory pointers, loaded with CR3 */

    /* MSRs kept here */
    u64 star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    u64 sysenter_cs, sysenter_esp, sysenter_eip;
    u64 pat, misc_enable, spec_ctrl, xss, debugctl, bios_sign_id, feature_control;
    u64 mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    u64 mcg_status, mcg_ctl, mc_bank[4 * 10];
    u64 tsc_adjust;

    /* Guest TSC = host TSC scaled by tsc_ratio (32.32 fixed point; 0 = 1:1) + tsc_offset. */
    u64 tsc_ratio, tsc_offset;

    /* --- pending --- */
    struct cpu_exc exc;
    s16 delivering; /* vector being delivered, for double faults; -1 if none */
    bool delivering_ext;
    bool shadow;      /* STI or MOV SS: no interrupt before the next instruction is done */
    bool shadow_ss;   /* MOV SS: no debug trap either */
    bool no_step;     /* the instruction just done is not followed by a single-step trap */
    bool nmi_blocked; /* until IRET */
    u32 db_pending;   /* DR6 bits of debug traps to be raised after this instruction */
    u8 activity;      /* enum cpu_activity */
    _Atomic u8 sipi_vector;

    /* --- engine-private caches --- */
    struct tlb_entry tlbs[TLB_MODES][TLB_SIZE];
    struct itlb_entry itlb[2][ITLB_SIZE];
    struct tlb_index tlb_index[TLB_MODES], itlb_index[2];
    struct large_seen large_seen;
    struct code_seen code_seen;
    struct cpu_context context[CPU_CONTEXTS]; /* address spaces that may come back */
    u8 context_now, context_next;
    u16 user_epoch_last;
    /* For who keeps translations of the address space's lower half himself: they are good for one
     * value of this, but for what INVLPG dropped, number n of which is at n % CPU_DROPPED. */
    u32 space_epoch, space_epoch_last;
    gva_t dropped[CPU_DROPPED];
    u32 ndropped;
    struct seg_known seg_known[SEG_KNOWN_SLOTS];

    /* --- derived by cpu_update_mode() for the page walker --- */
    u8 paging;         /* enum cpu_paging */
    u64 paging_key;    /* what it was derived from */
    u64 pte_rsvd[5];   /* reserved bits of present entries by level, 1 = page table */
    u64 large_rsvd[5]; /* more of them where the entry maps a large page */

    struct cpu_fpu *fpu;         /* owned; cpu_fpu.h */
    void *engine;                /* the engine's per-vCPU data */
    struct shadow *shadow_table; /* cpu_shadow.h; NULL unless the engine uses it */
    bool spaced;                 /* cpu_window() lies as mem/va.h says */

    struct cpu_debug *debug; /* not owned; NULL: no debugger (cpu_debug.h) */

    struct x86_insn step; /* cpu_insn_step()'s: asked for after an unwind, when its frame is gone */

    u64 insns;     /* guest instructions retired, counted by block */
    u64 cr8_known; /* CR8 plus 1 since it was last written; 0: the machine has to be asked */
    u64 pause_at;  /* insns at the last PAUSE */
    u32 pauses;    /* so many in a row: the guest spins */

    /* --- surroundings; not owned --- */
    unsigned id; /* index in the machine = initial APIC id */
    struct mem *mem;
    const struct cpu_model *model;
    const struct cpu_world *world;
    void *world_arg;
    const struct log *log;
};

/*
 * Address space that comes with a struct cpu and belongs to its engine, not accessible at first:
 * CPU_ROOM bytes right below it, and behind it, at cpu_window(), CPU_WINDOW bytes.
 */
#define CPU_SPAN   ((sizeof(struct cpu) + PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE)
#define CPU_ROOM   (16 * MiB)
#define CPU_WINDOW (4096 * MiB)

static inline void *cpu_window(struct cpu *c)
{
    return (u8 *)c + CPU_SPAN;
}

/*
 * Creates the state of one CPU as after RESET (SDM vol. 3A, table 9-1), page-aligned and too large
 * for a stack: free with cpu_free(). NULL and *e on failure.
 */
struct cpu *cpu_new(unsigned id, struct mem *mem, const struct cpu_model *model,
                    const struct cpu_world *world, void *world_arg, const struct log *log,
                    struct err *e);
void cpu_free(struct cpu *c);

/* RESET (init = false) or INIT (keeps MTRRs, TSC, FPU state: SDM vol. 3A, 9.1.1). */
void cpu_reset(struct cpu *c, bool init);

/* Saves or restores everything architectural, FP state included (base/state.h). */
void cpu_state(struct cpu *c, struct state *s);

/* Puts a CPU that waits for SIPI at vector * 4096 in real mode. */
void cpu_sipi(struct cpu *c, u8 vector);

/* --- flags --- */

static inline u16 aflags_pack(u32 fl)
{
    return (u16)((fl & 0xd5) << 8 | 0x200 | (fl >> 11 & 1));
}

static inline u32 aflags_unpack(u16 a)
{
    return (a >> 8 & 0xd5) | (u32)(a & 1) << 11;
}

/* RFLAGS as the guest would see it. */
static inline u32 cpu_flags(const struct cpu *c)
{
    return c->eflags | aflags_unpack(c->aflags) | FLAG_ONE;
}

/* Sets all of RFLAGS, and what hangs on it (event mask, TLB mode). No privilege checks. */
void cpu_set_flags(struct cpu *c, u32 fl);

/* An instruction is about to be run, and no breakpoint could ask for RF (EV_SLOW). */
static inline void cpu_clear_rf(struct cpu *c)
{
    if (unlikely(c->eflags & FLAG_RF))
        c->eflags &= ~FLAG_RF;
}

/* --- modes --- */

static inline bool cpu_protected(const struct cpu *c)
{
    return c->cr0 & CR0_PE;
}

static inline bool cpu_v86(const struct cpu *c)
{
    return c->eflags & FLAG_VM;
}

/* Real or V86 mode: segments are selector * 16. */
static inline bool cpu_realish(const struct cpu *c)
{
    return !cpu_protected(c) || cpu_v86(c);
}

static inline bool cpu_long(const struct cpu *c)
{
    return c->efer & EFER_LMA;
}

static inline unsigned cpu_iopl(const struct cpu *c)
{
    return c->eflags >> 12 & 3;
}

/* After any change of CS, CPL, EFLAGS.VM/AC/IF/TF, CR0, CR4, EFER: recomputes mode, la_mask, tlb,
 * event_mask, EV_SLOW and the quick limits of segments. */
void cpu_update_mode(struct cpu *c);

/* --- leaving the guest --- */

/* Raises an exception and unwinds to the engine. Error code only for those that have one. */
NORETURN void cpu_throw(struct cpu *c, unsigned vec, u32 err);
/* Sets CR2 too. */
NORETURN void cpu_throw_pf(struct cpu *c, gva_t va, u32 err);
/* Unwinds with whatever is in c->exc (or nothing pending: the instruction is simply restarted). */
NORETURN void cpu_unwind(struct cpu *c);

static inline NORETURN void cpu_throw_gp(struct cpu *c, u32 err)
{
    cpu_throw(c, EXC_GP, err);
}

static inline NORETURN void cpu_throw_ud(struct cpu *c)
{
    cpu_throw(c, EXC_UD, 0);
}

/* After an unwind from an instruction: turns #GP for a non-canonical address into #SS where the
 * address was the stack's (SDM vol. 1, 3.3.7.1). */
void cpu_fix_noncanonical(struct cpu *c, const struct x86_insn *i);

/* Must be called before any call that may use the host's vector registers (world, libc). */
void cpu_leave(struct cpu *c);

static inline void cpu_event_set(struct cpu *c, u32 ev)
{
    atomic_fetch_or(&c->events, ev);
    atomic_store_explicit(&c->poll, 1, memory_order_relaxed);
}

static inline void cpu_event_clear(struct cpu *c, u32 ev)
{
    atomic_fetch_and(&c->events, ~ev);
}

static inline bool cpu_event_pending(const struct cpu *c)
{
    return atomic_load_explicit(&c->events, memory_order_relaxed) & c->event_mask;
}

/* memcpy and memset without vector registers. */
static inline void cpu_copy(void *dst, const void *src, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static inline void cpu_fill(void *dst, u8 val, size_t n)
{
    __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(val) : "memory");
}

#endif
