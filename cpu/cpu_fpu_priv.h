/*
 * cpu_fpu_priv.h - shared by the cpu_fpu_*.c files and insn_xsave.c alone.
 */
#ifndef POPF_CPU_FPU_PRIV_H
#define POPF_CPU_FPU_PRIV_H

#include "cpu/cpu.h"
#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"

/* Offsets in the legacy region of the image (SDM vol. 1, table 10-2, 64-bit format). */
#define IMG_FCW        0
#define IMG_FSW        2
#define IMG_FTW        4
#define IMG_FOP        6
#define IMG_FIP        8
#define IMG_FDP        16
#define IMG_MXCSR      24
#define IMG_MXCSR_MASK 28
#define IMG_ST         32
#define IMG_XMM        160
#define IMG_LEGACY_END 416 /* the rest of the 512 bytes belongs to software */
#define IMG_XSTATE_BV  512
#define IMG_XCOMP_BV   520
#define IMG_EXTENDED   576

#define MXCSR_INIT 0x1f80u

#define FSW_ES BIT(7) /* an unmasked exception is pending */

/* What an instruction does besides running its stub. */
enum stub_kind {
    STUB_PLAIN,
    STUB_MASKED,  /* its memory operand is masked element by element: faults are suppressed */
    STUB_MASKMOV, /* the same, and the operand is at DS:rDI */
    STUB_FNINIT,
    STUB_FNSTENV,
    STUB_FLDENV,
    STUB_FNSAVE,
    STUB_FRSTOR,
    STUB_GATHER,
    STUB_SCATTER,
    STUB_ZERO, /* VZEROALL, VZEROUPPER */
};

/* What must be enabled; also bits of cpu_fpu_check(). */
#define NEED_X87    0x01u /* #NM by CR0.EM */
#define NEED_MMX    0x02u /* #UD by CR0.EM */
#define NEED_SSE    0x04u /* CR4.OSFXSR */
#define NEED_AVX    0x08u /* CR4.OSXSAVE, XCR0 bits 1, 2; no real or V86 mode */
#define NEED_AVX512 0x10u /* ... and XCR0 bits 5 to 7 */

/* struct fpu_stub.flags */
#define STUB_READ    0x01 /* reads its memory operand */
#define STUB_WRITE   0x02
#define STUB_ALIGN   0x04
#define STUB_X87_PTR 0x08 /* updates the x87 instruction and operand pointers */
#define STUB_X87_ST  0x10 /* x87 store: may be suppressed by an unmasked exception */
#define STUB_ENV16   0x20 /* 16-bit environment */
#define STUB_CONTROL 0x40 /* may change which x87 exceptions are masked */

/* struct fpu_stub.quirks */
#define QUIRK_WHOLE 0x01 /* masked, but all of the operand must be writable (exceptions E6NF) */
#define QUIRK_NO_AC 0x02 /* EFLAGS.AC does not check it, though it has 8 bytes or less */

/* One per distinct encoding. 32 bytes. */
struct fpu_stub {
    u32 code; /* offset in the code region */
    u32 hash;
    u32 next; /* in the hash chain, 0 ends */
    u8 code_len;
    u8 ran;  /* it has run without a fault: the host knows the encoding */
    u16 fop; /* x87: what FOP says of this instruction */
    u8 kind, need, flags;
    u8 size; /* of the memory operand, 0..108 */
    /* gather, scatter */
    u8 mask; /* opmask or vector register */
    u8 vl;
    u8 elem;  /* bytes of an element */
    u8 index; /* bytes of an index */
    u8 evex;
    u8 quirks;
    u8 pad[6];
};
static_assert(sizeof(struct fpu_stub) == 32, "struct fpu_stub");

#define STUBS_MAX      16384u
#define STUB_CODE_SIZE (1u << 20)
#define STUB_HASH      4096u

struct cpu_fpu {
    bool resident;  /* the guest's state is in the host's registers */
    bool has_xsave; /* the image is kept by XSAVE, else by FXSAVE */
    bool has_xsaveopt;
    bool exc_ptrs; /* FDP and FOP change only with an unmasked exception (CPUID.7.0:EBX[6]) */
    bool no_fcs;   /* FCS and FDS are always 0 (CPUID.7.0:EBX[13]) */
    u32 mxcsr_mask;
    u64 features;            /* XCR0 bits the image holds */
    unsigned size;           /* of the image, standard format */
    u32 offset[16], len[16]; /* extended components; 0 if not offered */
    u16 align;               /* those aligned in the compacted format */

    /* The image. All data areas are valid, those of components whose XSTATE_BV bit is clear too.
     * Meaningless for the registers while resident. */
    u8 *image;
    u8 *stage; /* as large: what XRSTOR and FXRSTOR have read but not yet checked */

    /* Last x87 instruction. The host's own registers hold addresses of stubs and of host memory:
     * what the guest sees is always taken from here. */
    u64 fip, fdp;
    u16 fcs, fds, fop;

    /* Set by the signal handler when a stub has faulted. */
    volatile u64 fault_addr;

    u8 *code;    /* executable view */
    u8 *code_rw; /* writable view, may be the same */
    u32 code_used;
    u32 generation;
    u32 nstubs;
    struct fpu_stub *stub; /* [STUBS_MAX] */
    u32 hash[STUB_HASH];

    /* Three pages, the first and last without access: operands whose bytes the guest may not
     * touch are put across an edge, so that the processor itself says if it wants them. */
    u8 *guard;

    u8 bounce[128] __attribute__((aligned(64)));
};

static inline u16 img16(const struct cpu_fpu *f, unsigned at)
{
    return *(const u16 *)(f->image + at);
}

static inline u32 img32(const struct cpu_fpu *f, unsigned at)
{
    return *(const u32 *)(f->image + at);
}

static inline u64 img64(const struct cpu_fpu *f, unsigned at)
{
    return *(const u64 *)(f->image + at);
}

static inline void img_put16(struct cpu_fpu *f, unsigned at, u16 v)
{
    *(u16 *)(f->image + at) = v;
}

static inline void img_put32(struct cpu_fpu *f, unsigned at, u32 v)
{
    *(u32 *)(f->image + at) = v;
}

static inline void img_put64(struct cpu_fpu *f, unsigned at, u64 v)
{
    *(u64 *)(f->image + at) = v;
}

/* Loads the guest's state if it is not resident. */
void cpu_fpu_load(struct cpu *c);

/* Writes the initial configuration of the components in `which` to the image. */
void cpu_fpu_image_init(struct cpu_fpu *f, u64 which);

/* FIP, FDP, FOP of the image, after it was replaced, become the guest's. */
void cpu_fpu_take_pointers(struct cpu_fpu *f);

/* x87 status word, wherever it is. */
u16 cpu_fpu_status(struct cpu *c);

/* Throws #UD or #NM unless what `need` names is enabled. */
void cpu_fpu_check_slow(struct cpu *c, unsigned need);

static inline void cpu_fpu_check(struct cpu *c, unsigned need)
{
    /* The usual kernel: everything on for x87, MMX and SSE. */
    if (unlikely((c->cr0 & (CR0_EM | CR0_TS)) || !(c->cr4 & CR4_OSFXSR) ||
                 (need & (NEED_AVX | NEED_AVX512))))
        cpu_fpu_check_slow(c, need);
}

/* Stub code. Returns 0, or 0x100 + the trap number of a fault, with nothing changed. */
typedef unsigned fpu_stub_fn(struct cpu *c, void *mem);
#define STUB_FAULT 0x100u

static inline unsigned cpu_fpu_call(struct cpu *c, const struct fpu_stub *s, void *mem)
{
    struct cpu_fpu *f = c->fpu;
    if (unlikely(!f->resident))
        cpu_fpu_load(c);
    return ((fpu_stub_fn *)(void *)(f->code + s->code))(c, mem);
}

/* Takes over what emitted code has noted of the last x87 instruction. */
void cpu_fpu_take_noted(struct cpu *c);

/* Turns a stub's fault into the guest's. */
NORETURN void cpu_fpu_raise(struct cpu *c, unsigned fault);

/* Allocates code memory and hash; frees it. */
int cpu_fpu_emit_init(struct cpu_fpu *f, struct err *e);
void cpu_fpu_emit_free(struct cpu_fpu *f);

/* Offset in the code region where a stub that faulted goes on: a RET. */
#define STUB_EXIT 0u

/* cpu_fpu_gather.c */
void cpu_fpu_gather(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s);
void cpu_fpu_zero(struct cpu *c, bool all);
void cpu_fpu_masked(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s, u64 ea);

/* Calls fn(c, arg) and takes back any fault that it raised: true if there was none. */
bool cpu_fpu_try(struct cpu *c, void (*fn)(struct cpu *c, void *arg), void *arg);

/* Guest memory by seg:ea in pieces; they throw. probe_write leaves memory alone. */
void cpu_fpu_copy_in(struct cpu *c, unsigned seg, u64 ea, void *buf, unsigned size);
void cpu_fpu_copy_out(struct cpu *c, unsigned seg, u64 ea, const void *buf, unsigned size);
void cpu_fpu_probe_write(struct cpu *c, unsigned seg, u64 ea, unsigned size);

#endif
