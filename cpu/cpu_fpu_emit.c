/*
 * cpu_fpu_emit.c - stubs: one guest instruction each, made to run on the host.
 *
 * A stub is called as fpu_stub_fn: RDI = struct cpu, RSI = address of the memory operand. It is
 *
 *     [load flags]                 FCMOVcc and the like
 *     [mov rax/rcx/rdx, reg[n]]    general registers the instruction names
 *     the instruction              memory operand as [rsi], general registers as rax, rcx, rdx
 *     [mov reg[n], rax/rcx/rdx]
 *     [lahf; seto; store aflags]   COMISS, PTEST, ...
 *     xor eax, eax; ret
 *
 * and touches no stack. Guests of every mode are re-encoded as 64-bit code.
 *
 * Sources: Intel SDM vol. 2A, chapter 2.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/cpu_fpu_priv.h"

#define STUB_CODE_MAX 128

struct buf {
    u8 b[STUB_CODE_MAX];
    unsigned n;
};

/* General register that stands in for ModRM.reg, ModRM.rm, VEX.vvvv. */
enum { SCRATCH_REG = RAX, SCRATCH_RM = RCX, SCRATCH_VVVV = RDX };

/* The parts of an instruction that decide its new encoding. */
struct enc {
    const struct x86_decoded *d;
    const struct x86_row *row;
    bool m64, mem;
    bool gpr_reg, gpr_rm, gpr_vvvv; /* these fields name general registers */
    bool vec_reg, vec_rm;           /* ... vector registers */
    bool pcmpestr, pcmpistr, stsw, maskmov;
    u8 opcode;
    u8 reg, rm, vvvv, index; /* register numbers for the new encoding */
    s32 disp;
    bool w;
};

/* --- bytes --- */

static void put(struct buf *o, u8 v)
{
    assert(o->n < STUB_CODE_MAX);
    o->b[o->n++] = v;
}

static void put_bytes(struct buf *o, const u8 *p, unsigned n)
{
    while (n--)
        put(o, *p++);
}

#define PUT(o, ...)                                                                                \
    do {                                                                                           \
        static const u8 bytes_[] = {__VA_ARGS__};                                                  \
        put_bytes((o), bytes_, sizeof bytes_);                                                     \
    } while (0)

static void put_disp32(struct buf *o, size_t v)
{
    for (unsigned i = 0; i < 4; i++)
        put(o, (u8)(v >> 8 * i));
}

/* mov host, [rdi + reg[n]] (store: the other way); host is rax, rcx or rdx */
static void put_gpr(struct buf *o, unsigned host, unsigned n, bool store)
{
    put(o, 0x48);
    put(o, store ? 0x89 : 0x8b);
    put(o, 0x87 | host << 3);
    put_disp32(o, offsetof(struct cpu, reg) + 8 * n);
}

/* movzx eax, word [rdi + aflags]; add al, 0x7f (OF from SETO's byte); sahf */
static void put_load_flags(struct buf *o)
{
    PUT(o, 0x0f, 0xb7, 0x87);
    put_disp32(o, offsetof(struct cpu, aflags));
    PUT(o, 0x04, 0x7f, 0x9e);
}

/* lahf; seto al; mov [rdi + aflags], ax */
static void put_store_flags(struct buf *o)
{
    PUT(o, 0x9f, 0x0f, 0x90, 0xc0, 0x66, 0x89, 0x87);
    put_disp32(o, offsetof(struct cpu, aflags));
}

/* --- analysis --- */

static bool has_operand(const struct x86_row *row, enum x86_operand kind)
{
    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++)
        if (row->operand[n] == kind)
            return true;
    return false;
}

static bool writes_operand(const struct x86_row *row, enum x86_operand kind)
{
    for (unsigned n = 0; n < X86_OPERANDS_MAX; n++)
        if (row->operand[n] == kind && row->written >> n & 1)
            return true;
    return false;
}

/* Raw W of REX, VEX or EVEX. */
static bool raw_w(const struct x86_decoded *d)
{
    const u8 *op = d->bytes + d->opcode_at;
    switch (d->vex) {
    case 0:
        return d->rex & 8;
    case 2:
        return false;
    case 3:
        return op[-1] & 0x80;
    default:
        return op[-2] & 0x80;
    }
}

static void analyse(struct enc *e, const struct x86_decoded *d, bool m64)
{
    const struct x86_row *row = x86_row(&d->i);
    bool mem = d->i.prefix & X86_PFX_MEM;
    u8 opcode = d->bytes[d->opcode_at];
    *e = (struct enc){.d = d, .row = row, .m64 = m64, .mem = mem, .opcode = opcode};
    e->gpr_reg = has_operand(row, X86_O_G);
    e->gpr_rm = !mem && (has_operand(row, X86_O_E) || has_operand(row, X86_O_R));
    e->gpr_vvvv = has_operand(row, X86_O_B);
    e->vec_reg = has_operand(row, X86_O_V);
    e->vec_rm = !mem && (has_operand(row, X86_O_W) || has_operand(row, X86_O_U));
    e->pcmpestr = d->map == 3 && d->vex < 4 && (opcode == 0x60 || opcode == 0x61);
    e->pcmpistr = d->map == 3 && d->vex < 4 && (opcode == 0x62 || opcode == 0x63);
    e->stsw = row->op == X86_FNSTSW && !mem;
    e->maskmov = d->map == 1 && opcode == 0xf7 && !mem;
    u8 modrm = d->modrm_at ? d->bytes[d->modrm_at] : 0;
    unsigned cut = m64 ? 31 : 7; /* outside 64-bit code there are 8 registers */
    e->reg = e->gpr_reg ? SCRATCH_REG : e->vec_reg ? d->i.reg & cut : modrm >> 3 & 7;
    e->rm = mem ? RSI : e->gpr_rm ? SCRATCH_RM : e->vec_rm ? d->i.rm & cut : modrm & 7;
    e->vvvv = e->gpr_vvvv ? SCRATCH_VVVV : d->vvvv & cut;
    /* W chooses 64-bit general registers, and only in 64-bit code. */
    bool w_is_gpr =
        e->gpr_reg || e->gpr_rm || e->gpr_vvvv || e->pcmpestr || has_operand(row, X86_O_E);
    e->w = raw_w(d) && (m64 || !w_is_gpr);
}

/* --- the instruction itself --- */

static void put_legacy(struct buf *o, const struct enc *e)
{
    const struct x86_decoded *d = e->d;
    for (unsigned n = 0; d->map && n < d->opcode_at; n++) { /* the x87 has no use for prefixes */
        u8 b = d->bytes[n];
        if (b == 0x66 || b == 0xf2 || b == 0xf3)
            put(o, b);
        else if (b == 0x0f)
            break;
    }
    unsigned rex =
        (e->w ? 8 : 0) | (e->reg >> 3 & 1) << 2 | (e->index >> 3 & 1) << 1 | (e->rm >> 3 & 1);
    if (rex)
        put(o, 0x40 | rex);
    if (d->map)
        put(o, 0x0f);
    if (d->map > 1)
        put(o, d->map == 2 ? 0x38 : 0x3a);
}

/* Always the three-byte form. */
static void put_vex(struct buf *o, const struct enc *e)
{
    const struct x86_decoded *d = e->d;
    u8 last = d->bytes[d->opcode_at - 1]; /* L and pp are in the same place in both forms */
    put(o, 0xc4);
    put(o, (e->reg & 8 ? 0 : 0x80) | (e->index & 8 ? 0 : 0x40) | (e->rm & 8 ? 0 : 0x20) | d->map);
    put(o, (e->w ? 0x80 : 0) | (~e->vvvv & 15) << 3 | (last & 7));
}

static void put_evex(struct buf *o, const struct enc *e)
{
    const struct x86_decoded *d = e->d;
    const u8 *p = d->bytes + d->opcode_at - 4;
    put(o, 0x62);
    put(o, (e->reg & 8 ? 0 : 0x80) | ((e->rm & 16 || e->index & 8) ? 0 : 0x40) |
               (e->rm & 8 ? 0 : 0x20) | (e->reg & 16 ? 0 : 0x10) | d->map);
    put(o, (e->w ? 0x80 : 0) | (~e->vvvv & 15) << 3 | 0x04 | (p[2] & 3));
    put(o, (p[3] & 0xf7) | (e->vvvv & 16 ? 0 : 0x08));
}

static void put_insn(struct buf *o, const struct enc *e)
{
    const struct x86_decoded *d = e->d;
    if (d->vex == 4)
        put_evex(o, e);
    else if (d->vex)
        put_vex(o, e);
    else
        put_legacy(o, e);
    put(o, e->opcode);
    if (e->index) {
        bool none = !e->disp && (e->rm & 7) != RBP; /* there is no such form for this base */
        put(o, (none ? 0x04 : 0x84) | (e->reg & 7) << 3);
        put(o, (e->index & 7) << 3 | (e->rm & 7));
        for (unsigned n = 0; n < 4 && !none; n++)
            put(o, (u8)((u32)e->disp >> 8 * n));
    } else if (d->modrm_at) {
        put(o, (e->mem ? 0x00 : 0xc0) | (e->reg & 7) << 3 | (e->rm & 7));
    }
    /* imm8[7:4] names a vector register; its top bit is ignored outside 64-bit code. */
    u8 imm_mask = has_operand(e->row, X86_O_L) && !e->m64 ? 0x7f : 0xff;
    for (unsigned n = 0; n < d->imm_len; n++)
        put(o, d->bytes[d->imm_at + n] & imm_mask);
}

static void put_loads(struct buf *o, const struct enc *e)
{
    const struct x86_row *row = e->row;
    u32 written = row->flags_written | row->flags_undef;
    if (row->flags_read || (written && written != FLAGS_ARITH))
        put_load_flags(o);
    if (e->gpr_reg)
        put_gpr(o, SCRATCH_REG, e->d->i.reg & 15, false);
    if (e->gpr_rm)
        put_gpr(o, SCRATCH_RM, e->d->i.rm & 15, false);
    if (e->gpr_vvvv)
        put_gpr(o, SCRATCH_VVVV, e->d->vvvv & 15, false);
    if (e->pcmpestr || e->stsw)
        put_gpr(o, RAX, RAX, false);
    if (e->pcmpestr)
        put_gpr(o, RDX, RDX, false);
}

static void put_stores(struct buf *o, const struct enc *e)
{
    const struct x86_row *row = e->row;
    if (e->gpr_reg && writes_operand(row, X86_O_G))
        put_gpr(o, SCRATCH_REG, e->d->i.reg & 15, true);
    if (e->gpr_rm && (writes_operand(row, X86_O_E) || writes_operand(row, X86_O_R)))
        put_gpr(o, SCRATCH_RM, e->d->i.rm & 15, true);
    if (e->gpr_vvvv && writes_operand(row, X86_O_B))
        put_gpr(o, SCRATCH_VVVV, e->d->vvvv & 15, true);
    if ((e->pcmpestr || e->pcmpistr) && (e->opcode & 1))
        put_gpr(o, RCX, RCX, true);
    if (e->stsw)
        put_gpr(o, RAX, RAX, true);
    if (row->flags_written || row->flags_undef)
        put_store_flags(o);
}

static void put_stub(struct buf *o, const struct enc *e)
{
    put_loads(o, e);
    if (e->maskmov)
        PUT(o, 0x49, 0x89, 0xf8, 0x48, 0x89, 0xf7); /* mov r8, rdi; mov rdi, rsi */
    put_insn(o, e);
    if (e->maskmov)
        PUT(o, 0x4c, 0x89, 0xc7); /* mov rdi, r8 */
    put_stores(o, e);
    PUT(o, 0x31, 0xc0, 0xc3); /* xor eax, eax; ret */
}

/* --- what else execution must know --- */

static bool is_env(enum x86_op op)
{
    return op == X86_FNSTENV || op == X86_FLDENV || op == X86_FNSAVE || op == X86_FRSTOR;
}

/* VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ */
static bool is_vex_maskmov(const struct enc *e)
{
    return e->d->vex && e->d->vex < 4 && e->d->map == 2 &&
           ((e->opcode >= 0x2c && e->opcode <= 0x2f) || e->opcode == 0x8c || e->opcode == 0x8e);
}

/* VCOMPRESSx, VEXPANDx, VPCOMPRESSx, VPEXPANDx: up to a whole vector of memory. */
static bool is_compress(const struct enc *e)
{
    return e->d->vex == 4 && e->d->map == 2 &&
           (e->opcode == 0x62 || e->opcode == 0x63 || (e->opcode >= 0x88 && e->opcode <= 0x8b));
}

static enum stub_kind kind_of(const struct enc *e)
{
    switch (e->row->op) {
    case X86_FNINIT:
        return STUB_FNINIT;
    case X86_FNSTENV:
        return STUB_FNSTENV;
    case X86_FLDENV:
        return STUB_FLDENV;
    case X86_FNSAVE:
        return STUB_FNSAVE;
    case X86_FRSTOR:
        return STUB_FRSTOR;
    case X86_VZEROALL:
    case X86_VZEROUPPER:
        return STUB_ZERO;
    default:
        break;
    }
    if (e->d->vsib)
        return e->row->attr & X86_MEM_WRITE ? STUB_SCATTER : STUB_GATHER;
    if (e->maskmov)
        return STUB_MASKMOV;
    if (e->mem && ((e->d->vex == 4 && e->d->evex_aaa) || is_vex_maskmov(e)))
        return STUB_MASKED;
    return STUB_PLAIN;
}

static unsigned need_of(const struct x86_row *row)
{
    return (row->attr & X86_X87 ? NEED_X87 : 0) | (row->attr & X86_MMX ? NEED_MMX : 0) |
           (row->attr & X86_SSE ? NEED_SSE : 0) | (row->attr & X86_AVX ? NEED_AVX : 0) |
           (row->attr & X86_AVX512 ? NEED_AVX | NEED_AVX512 : 0);
}

static unsigned quirks_of(const struct enc *e)
{
    switch (e->row->op) {
    case X86_VEXTRACTF32X4:
    case X86_VEXTRACTF64X2:
    case X86_VEXTRACTF32X8:
    case X86_VEXTRACTF64X4:
    case X86_VEXTRACTI32X4:
    case X86_VEXTRACTI64X2:
    case X86_VEXTRACTI32X8:
    case X86_VEXTRACTI64X4:
        return QUIRK_WHOLE;
    case X86_VCVTPH2PS:
    case X86_VCVTPS2PH:
        return QUIRK_NO_AC;
    default:
        return 0;
    }
}

static unsigned flags_of(const struct enc *e)
{
    u32 attr = e->row->attr;
    unsigned fl = 0;
    if (e->mem || e->maskmov)
        fl = (attr & X86_MEM_WRITE || e->maskmov ? STUB_WRITE : STUB_READ) |
             (attr & X86_ALIGNED ? STUB_ALIGN : 0);
    if (e->row->op == X86_FLDCW || e->row->op == X86_FNINIT || is_env(e->row->op))
        return fl | STUB_CONTROL;
    if (!(attr & X86_X87) || attr & X86_NOWAIT)
        return fl;
    return fl | STUB_X87_PTR | (fl & STUB_WRITE ? STUB_X87_ST : 0);
}

static void describe(struct fpu_stub *s, const struct enc *e)
{
    const struct x86_decoded *d = e->d;
    *s = (struct fpu_stub){.kind = kind_of(e), .need = need_of(e->row), .flags = flags_of(e)};
    s->quirks = (u8)quirks_of(e);
    s->size = e->mem ? (u8)d->mem_size : 0;
    if (e->mem && is_compress(e))
        s->size = d->vl;
    if (e->maskmov)
        s->size = e->row->attr & X86_MMX ? 8 : 16;
    if (e->row->attr & X86_X87)
        s->fop = (e->opcode & 7) << 8 | d->bytes[d->modrm_at];
    if (is_env(e->row->op) && (d->mem_size == 14 || d->mem_size == 94))
        s->flags |= STUB_ENV16;
    if (d->vsib) {
        s->vl = d->vl;
        s->elem = (u8)d->mem_size;
        s->index = e->opcode & 1 ? 8 : 4;
        s->evex = d->vex == 4;
        s->mask = s->evex ? d->evex_aaa : d->vvvv;
    }
}

/* The environment is always stored by the host in its 32-bit format and rewritten in C. */
static void emit(struct buf *o, const struct enc *e)
{
    if (e->d->vsib)
        return;
    if (is_env(e->row->op)) {
        put(o, e->opcode);
        put(o, e->reg << 3 | RSI);
        PUT(o, 0x31, 0xc0, 0xc3);
        return;
    }
    put_stub(o, e);
}

static bool offered(const struct cpu *c, const struct x86_decoded *d)
{
    const struct x86_row *row = x86_row(&d->i);
    return cpu_has(c, row->feature) && !(row->attr & X86_AND_AVX && !cpu_has(c, X86_F_AVX)) &&
           !(row->attr & X86_AND_AVX512 && !cpu_has(c, X86_F_AVX512F)) &&
           !(row->attr & X86_NEEDS_VL && d->vl < 64 && !cpu_has(c, X86_F_AVX512VL));
}

/* --- the store of stubs --- */

/* FNV-1a over the code and what describes it. */
static u32 hash_of(const struct buf *o, const struct fpu_stub *s)
{
    u32 h = 2166136261u;
    for (unsigned n = 0; n < o->n; n++)
        h = (h ^ o->b[n]) * 16777619u;
    const u8 *p = (const u8 *)&s->fop;
    for (unsigned n = 0; n < sizeof *s - offsetof(struct fpu_stub, fop); n++)
        h = (h ^ p[n]) * 16777619u;
    return h;
}

static bool equal_bytes(const void *a, const void *b, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        if (((const u8 *)a)[k] != ((const u8 *)b)[k])
            return false;
    return true;
}

static u32 lookup(const struct cpu_fpu *f, const struct buf *o, const struct fpu_stub *s)
{
    for (u32 n = f->hash[s->hash % STUB_HASH]; n; n = f->stub[n].next) {
        const struct fpu_stub *t = &f->stub[n];
        if (t->hash == s->hash && t->code_len == o->n &&
            equal_bytes(&t->fop, &s->fop, sizeof *s - offsetof(struct fpu_stub, fop)) &&
            equal_bytes(f->code_rw + t->code, o->b, o->n))
            return n;
    }
    return 0;
}

static void drop_all(struct cpu_fpu *f)
{
    cpu_fill(f->hash, 0, sizeof f->hash);
    f->generation++;
    f->nstubs = 1; /* 0 is no stub */
    f->code_rw[STUB_EXIT] = 0xc3;
    f->code_used = 16;
}

static u32 insert(struct cpu_fpu *f, const struct buf *o, struct fpu_stub *s)
{
    if (f->nstubs == STUBS_MAX || f->code_used + STUB_CODE_MAX > STUB_CODE_SIZE)
        drop_all(f);
    u32 n = f->nstubs++, *head = &f->hash[s->hash % STUB_HASH];
    s->code = f->code_used;
    s->code_len = (u8)o->n;
    s->next = *head;
    cpu_copy(f->code_rw + s->code, o->b, o->n);
    f->code_used += (u32)align_up(o->n, 16);
    f->stub[n] = *s;
    *head = n;
    return n;
}

static void prepare(const struct cpu *c, const struct x86_decoded *d, struct buf *o,
                    struct fpu_stub *s)
{
    struct enc e;
    o->n = 0;
    analyse(&e, d, c->mode == X86_MODE64);
    describe(s, &e);
    emit(o, &e);
    s->hash = hash_of(o, s);
}

u64 cpu_fpu_bind(struct cpu *c, const struct x86_decoded *d)
{
    struct cpu_fpu *f = c->fpu;
    struct buf o;
    struct fpu_stub s;
    if (!(x86_row(&d->i)->attr & X86_HOST) || !offered(c, d))
        return 0;
    prepare(c, d, &o, &s);
    u32 n = lookup(f, &o, &s);
    if (!n)
        n = insert(f, &o, &s);
    return (u64)f->generation << 32 | n;
}

u32 cpu_fpu_generation(const struct cpu *c)
{
    return c->fpu->generation;
}

/* --- for engines that emit --- */

static enum cpu_fpu_level level_of(unsigned need)
{
    return need & NEED_AVX512 ? FPU_AVX512 : need & NEED_AVX ? FPU_AVX : FPU_SSE;
}

bool cpu_fpu_plan(const struct cpu *c, const struct x86_decoded *d, struct cpu_fpu_plan *p)
{
    const struct cpu_fpu *f = c->fpu;
    struct buf o;
    struct fpu_stub wanted;
    if (!offered(c, d))
        return false;
    prepare(c, d, &o, &wanted);
    const struct fpu_stub *s = &f->stub[lookup(f, &o, &wanted)];
    bool masked = s->kind == STUB_MASKED && d->vex == 4 && s->size == d->mem_size;
    bool plain = s->kind == STUB_PLAIN || masked || (s->kind == STUB_ZERO && c->mode == X86_MODE64);
    if (s == f->stub || !plain || !s->ran)
        return false;
    *p = (struct cpu_fpu_plan){
        .level = level_of(s->need),
        .size = s->size,
        .write = s->flags & STUB_WRITE,
        .aligned = s->flags & STUB_ALIGN,
        .masked = masked,
        .x87_ptr = s->flags & STUB_X87_PTR,
        .control = s->flags & STUB_CONTROL,
        .fop = s->fop & 0x7ff,
    };
    return true;
}

unsigned cpu_fpu_encode(const struct x86_decoded *d, bool mode64, const struct cpu_fpu_regs *r,
                        u8 *out)
{
    struct buf o = {.n = 0};
    struct enc e;
    analyse(&e, d, mode64);
    e.reg = e.gpr_reg ? r->reg : e.reg;
    e.rm = e.mem ? r->mem : e.gpr_rm ? r->rm : e.rm;
    e.index = e.mem ? r->index : 0;
    e.disp = r->disp;
    e.vvvv = e.gpr_vvvv ? r->vvvv : e.vvvv;
    put_insn(&o, &e);
    cpu_copy(out, o.b, o.n);
    return o.n;
}

/* --- memory for them --- */

/* Where the host refuses memory that is writable and executable: two views of one file. */
static int map_twice(struct cpu_fpu *f, struct err *e)
{
    int fd = memfd_create("popf-fpu", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, STUB_CODE_SIZE)) {
        if (fd >= 0)
            close(fd);
        return err_errno(e, "executable memory for FP instructions: memfd_create");
    }
    void *rw = mmap(NULL, STUB_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *rx = mmap(NULL, STUB_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    close(fd);
    f->code_rw = rw == MAP_FAILED ? NULL : rw;
    f->code = rx == MAP_FAILED ? NULL : rx;
    if (f->code && f->code_rw)
        return 0;
    return err_errno(e, "executable memory for FP instructions: mmap of %u bytes", STUB_CODE_SIZE);
}

int cpu_fpu_emit_init(struct cpu_fpu *f, struct err *e)
{
    f->stub = reserve_memory(STUBS_MAX * sizeof *f->stub);
    if (!f->stub)
        return err_errno(e, "table of FP instructions: mmap");
    void *p = mmap(NULL, STUB_CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p != MAP_FAILED)
        f->code = f->code_rw = p;
    else if (map_twice(f, e))
        return -1;
    drop_all(f);
    return 0;
}

void cpu_fpu_emit_free(struct cpu_fpu *f)
{
    if (f->code_rw && f->code_rw != f->code)
        munmap(f->code_rw, STUB_CODE_SIZE);
    if (f->code)
        munmap(f->code, STUB_CODE_SIZE);
    if (f->stub)
        munmap(f->stub, STUBS_MAX * sizeof *f->stub);
}
