/*
 * cpu_fpu_exec.c - running X86_HOST instructions: what must be enabled, the memory operand, faults,
 * and the x87 environment.
 *
 * Sources: Intel SDM vol. 1, 8.1.8 to 8.1.10 (pointers, environment); vol. 3A, 2.5, 13 (CR0, CR4),
 * 6.15 (#NM, #MF, #XM).
 */
#include "cpu/cpu_fpu_priv.h"

/* --- what must be enabled (SDM vol. 2A, 2.4 and vol. 3A, table 13-2 ff.) --- */

static bool undefined(const struct cpu *c, unsigned need)
{
    if (need & (NEED_AVX | NEED_AVX512)) {
        u64 want = XCR0_SSE | XCR0_AVX;
        if (need & NEED_AVX512)
            want |= XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM;
        return cpu_realish(c) || !(c->cr4 & CR4_OSXSAVE) || (c->xcr0 & want) != want;
    }
    if (need & (NEED_SSE | NEED_MMX) && c->cr0 & CR0_EM)
        return true;
    return need & NEED_SSE && !(c->cr4 & CR4_OSFXSR);
}

void cpu_fpu_check_slow(struct cpu *c, unsigned need)
{
    if (undefined(c, need))
        cpu_throw_ud(c);
    if (c->cr0 & CR0_TS || (need & NEED_X87 && c->cr0 & CR0_EM))
        cpu_throw(c, EXC_NM, 0);
}

/* CR0.NE = 0 (IGNNE#, IRQ13) is not told apart: no guest of this century relies on it. */
void cpu_fpu_raise(struct cpu *c, unsigned fault)
{
    switch (fault & ~STUB_FAULT) {
    case EXC_MF:
        cpu_throw(c, EXC_MF, 0);
    case EXC_XM:
        cpu_throw(c, c->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD, 0);
    case EXC_UD: /* an instruction the host does not have after all */
        cpu_throw_ud(c);
    default:
        cpu_throw_gp(c, 0);
    }
}

/* --- guest memory in pieces --- */

/*
 * As far as the page goes; what the TLB does not have is read and written by 64 bytes at most. What
 * a page's end cuts off looks like an operand of its own, but EFLAGS.AC is no concern of pieces,
 * only of the instruction: single bytes are always aligned, and large pieces are not checked.
 */
static unsigned piece(const struct cpu *c, gva_t la, unsigned left)
{
    unsigned n = (unsigned)min_u64(left, PAGE_SIZE - (la & PAGE_MASK));
    return unlikely(c->tlb == c->tlbs[TLB_STRICT]) && n < 16 ? 1 : n;
}

void cpu_fpu_copy_in(struct cpu *c, unsigned seg, u64 ea, void *buf, unsigned size)
{
    for (unsigned at = 0, n; at < size; at += n) {
        n = piece(c, ea + at + c->seg[seg].base, size - at);
        gva_t la = cpu_la(c, seg, ea + at, n, false);
        const u8 *p = cpu_rd_fast(c, la, n);
        if (likely(p != NULL)) {
            cpu_copy((u8 *)buf + at, p, n);
        } else {
            n = n < 64 ? n : 64;
            cpu_read_slow(c, la, (u8 *)buf + at, n);
        }
    }
}

void cpu_fpu_copy_out(struct cpu *c, unsigned seg, u64 ea, const void *buf, unsigned size)
{
    for (unsigned at = 0, n; at < size; at += n) {
        n = piece(c, ea + at + c->seg[seg].base, size - at);
        gva_t la = cpu_la(c, seg, ea + at, n, true);
        struct tlb_entry *t = cpu_tlb_at(c, la);
        if (likely(t->wr == (la & ~PAGE_MASK))) {
            cpu_copy((u8 *)(la + t->addend), (const u8 *)buf + at, n);
            cpu_wrote(c, t->code, la, n);
        } else {
            n = n < 64 ? n : 64;
            cpu_write_slow(c, la, (const u8 *)buf + at, n);
        }
    }
}

void cpu_fpu_probe_write(struct cpu *c, unsigned seg, u64 ea, unsigned size)
{
    for (unsigned at = 0, n; at < size; at += n) {
        gva_t la = cpu_la(c, seg, ea + at, 1, true);
        n = (unsigned)min_u64(size - at, PAGE_SIZE - (la & PAGE_MASK));
        cpu_la(c, seg, ea + at, n, true);
        if (cpu_tlb_at(c, la)->wr != (la & ~PAGE_MASK))
            cpu_ptr_slow(c, la, 1, true); /* alignment does not matter */
    }
}

/* --- plain instructions --- */

/* SDM vol. 3A, table 6-7; before the page is looked at. */
static void check_ac(struct cpu *c, const struct fpu_stub *s, gva_t la)
{
    static const u8 mask[] = {[2] = 1, [4] = 3, [8] = 7, [10] = 7};
    if (unlikely(c->tlb == c->tlbs[TLB_STRICT]) && !(s->quirks & QUIRK_NO_AC) &&
        s->size < ARRAY_SIZE(mask) && la & mask[s->size] && x86_canonical(la))
        cpu_throw(c, EXC_AC, 0);
}

/* Accesses that EFLAGS.AC does not, or no longer, concern. */
static void read_bytes(struct cpu *c, unsigned seg, u64 ea, u8 *buf, unsigned size)
{
    for (unsigned n = 0; n < size; n++)
        buf[n] = cpu_ld8(c, seg, ea + n);
}

static void write_bytes(struct cpu *c, unsigned seg, u64 ea, const u8 *buf, unsigned size)
{
    if (likely(c->tlb != c->tlbs[TLB_STRICT])) {
        cpu_fpu_copy_out(c, seg, ea, buf, size);
        return;
    }
    for (unsigned n = 0; n < size; n++)
        cpu_st8(c, seg, ea + n, buf[n]);
}

/* The last x87 instruction raised an unmasked exception that keeps it from storing: any but
 * precision (SDM vol. 1, 8.5). None was pending before it, or it had not run. */
static bool store_suppressed(struct cpu *c)
{
    u16 cw, sw = cpu_fpu_status(c);
    if (!(sw & FSW_ES))
        return false;
    __asm__ volatile("fnstcw %0" : "=m"(cw));
    return sw & ~cw & 0x1f;
}

/* Before an operand that may fault: a pending #MF comes first. CVTPI2PS and CVTPI2PD of memory do
 * not touch the x87 state. */
static void check_pending(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s)
{
    const struct x86_row *row = x86_row(i);
    if (!(s->need & (NEED_X87 | NEED_MMX)) || row->attr & X86_NOWAIT || row->op == X86_CVTPI2PS ||
        row->op == X86_CVTPI2PD)
        return;
    if (cpu_fpu_status(c) & FSW_ES)
        cpu_throw(c, EXC_MF, 0);
}

/* Can the operand be written? Throws if not. */
struct probe {
    const struct fpu_stub *s;
    unsigned seg;
    u64 ea;
};

static void probe(struct cpu *c, void *arg)
{
    const struct probe *p = arg;
    gva_t la = cpu_la(c, p->seg, p->ea, p->s->size, true);
    if (p->s->flags & STUB_ALIGN && la & (p->s->size - 1u))
        cpu_throw_gp(c, 0);
    check_ac(c, p->s, la);
    if (unlikely(c->mode == X86_MODE64 && !x86_canonical(la + p->s->size - 1)))
        cpu_fpu_probe_write(c, p->seg, p->ea + p->s->size - 1, 1); /* before any page */
    cpu_fpu_probe_write(c, p->seg, p->ea, p->s->size);
}

/* The operand of an x87 store cannot be written. That is no fault if the store is suppressed: the
 * instruction is tried, and undone if it would have stored. */
static bool suppressed_unwritable(struct cpu *c, const struct fpu_stub *s)
{
    struct cpu_fpu *f = c->fpu;
    cpu_leave(c);
    cpu_copy(f->stage, f->image, f->size);
    if (!cpu_fpu_call(c, s, f->bounce) && store_suppressed(c))
        return true;
    cpu_leave(c);
    cpu_copy(f->image, f->stage, f->size);
    return false;
}

/* Write permission is established before an x87 store or one from MMX registers runs, since it
 * changes the stack. Others run first: their SIMD exceptions come before faults of the operand. */
static unsigned store_slow(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s,
                           u64 ea)
{
    u8 *p = c->fpu->bounce;
    unsigned fault;
    bool first = s->need & (NEED_X87 | NEED_MMX);
    struct probe pr = {s, i->seg, ea};
    check_pending(c, i, s);
    if (s->flags & STUB_X87_ST && !cpu_fpu_try(c, probe, &pr) && suppressed_unwritable(c, s))
        return 0;
    if (first)
        probe(c, &pr);
    if ((fault = cpu_fpu_call(c, s, p)) != 0)
        return fault;
    if (!first)
        probe(c, &pr);
    if (!(s->flags & STUB_X87_ST) || !store_suppressed(c))
        write_bytes(c, i->seg, ea, p, s->size);
    return 0;
}

static void note_x87(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s, u64 ea)
{
    struct cpu_fpu *f = c->fpu;
    u64 rip = c->reg[X86_SLOT_RIP] - i->len;
    f->fip = c->mode == X86_MODE64 ? rip : (u32)rip;
    f->fcs = c->seg[CS].sel;
    if (f->exc_ptrs && !(cpu_fpu_status(c) & FSW_ES))
        return;
    f->fop = s->fop & 0x7ff;
    if (s->size) {
        f->fdp = ea;
        f->fds = i->seg < X86_SEG_FLAT ? c->seg[i->seg].sel : c->seg[DS].sel;
    }
}

static unsigned run_store(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s, u64 ea)
{
    if (unlikely(ea + s->size > c->seg[i->seg].wr_end))
        return store_slow(c, i, s, ea);
    gva_t la = (ea + c->seg[i->seg].base) & c->la_mask;
    struct tlb_entry *t = cpu_tlb_at(c, la);
    if (unlikely(t->wr != (la & ~PAGE_MASK) || !cpu_in_page(la, s->size) ||
                 (s->flags & STUB_ALIGN && la & (s->size - 1u))))
        return store_slow(c, i, s, ea);
    unsigned fault = cpu_fpu_call(c, s, (u8 *)(la + t->addend));
    if (likely(!fault))
        cpu_wrote(c, t->code, la, s->size);
    return fault;
}

static unsigned run_load(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s, u64 ea)
{
    if (unlikely(ea + s->size > c->seg[i->seg].rd_end))
        check_pending(c, i, s);
    gva_t la = cpu_la(c, i->seg, ea, s->size, false);
    if (unlikely(s->flags & STUB_ALIGN && la & (s->size - 1u))) {
        check_pending(c, i, s);
        cpu_throw_gp(c, 0);
    }
    u8 *p = cpu_rd_fast(c, la, s->size);
    if (unlikely(!p)) {
        p = c->fpu->bounce;
        check_pending(c, i, s);
        check_ac(c, s, la);
        if (s->quirks & QUIRK_NO_AC)
            read_bytes(c, i->seg, ea, p, s->size);
        else
            cpu_read_slow(c, la, p, s->size);
    }
    return cpu_fpu_call(c, s, p);
}

static void run_plain(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s)
{
    u64 ea = 0;
    unsigned fault;
    if (s->size) {
        ea = cpu_ea(c, i);
        fault = s->flags & STUB_WRITE ? run_store(c, i, s, ea) : run_load(c, i, s, ea);
    } else {
        fault = cpu_fpu_call(c, s, NULL);
    }
    if (unlikely(fault))
        cpu_fpu_raise(c, fault);
    if (s->flags & STUB_X87_PTR)
        note_x87(c, i, s, ea);
}

/* --- the x87 environment: four layouts (SDM vol. 1, figures 8-9 to 8-12) --- */

#define ENV_SIZE 28 /* the 32-bit protected-mode layout, which the host uses */

static void put16(u8 *p, u16 v)
{
    *(u16 *)p = v;
}

static void put32(u8 *p, u32 v)
{
    *(u32 *)p = v;
}

static u16 get16(const u8 *p)
{
    return *(const u16 *)p;
}

static u32 get32(const u8 *p)
{
    return *(const u32 *)p;
}

static void env_out32(const struct cpu *c, u8 *env)
{
    const struct cpu_fpu *f = c->fpu;
    u32 ip = (u32)f->fip, dp = (u32)f->fdp;
    if (cpu_realish(c)) {
        ip += (u32)f->fcs << 4;
        dp += (u32)f->fds << 4;
        put32(env + 12, 0xffff0000u | ip);
        put32(env + 16, ip >> 16 << 12 | f->fop);
        put32(env + 20, 0xffff0000u | dp);
        put32(env + 24, dp >> 16 << 12);
        return;
    }
    put32(env + 12, ip);
    put32(env + 16, (f->no_fcs ? 0 : f->fcs) | (u32)f->fop << 16);
    put32(env + 20, dp);
    put32(env + 24, 0xffff0000u | (f->no_fcs ? 0 : f->fds));
}

static void env_out16(const struct cpu *c, u8 *env)
{
    const struct cpu_fpu *f = c->fpu;
    u32 ip = (u32)f->fip, dp = (u32)f->fdp;
    u16 cs = f->no_fcs ? 0 : f->fcs, ds = f->no_fcs ? 0 : f->fds;
    if (cpu_realish(c)) {
        ip += (u32)f->fcs << 4;
        dp += (u32)f->fds << 4;
        cs = (u16)(ip >> 16 << 12 | f->fop);
        ds = (u16)(dp >> 16 << 12);
    }
    put16(env + 2, get16(env + 4));
    put16(env + 4, get16(env + 8));
    put16(env + 6, (u16)ip);
    put16(env + 8, cs);
    put16(env + 10, (u16)dp);
    put16(env + 12, ds);
}

/* SDM vol. 3A, table 6-7: words of the environment. */
static void check_env_aligned(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s,
                              u64 ea)
{
    bool write = s->kind == STUB_FNSTENV || s->kind == STUB_FNSAVE;
    unsigned head = s->flags & STUB_ENV16 ? 14 : 28;
    gva_t la = cpu_la(c, i->seg, ea, head, write); /* all of it, before any page */
    if (unlikely(c->tlb == c->tlbs[TLB_STRICT]) && x86_canonical(la) &&
        la & (s->flags & STUB_ENV16 ? 1 : 3))
        cpu_throw(c, EXC_AC, 0);
}

/* FNSTENV, FNSAVE: the stub stores the host's layout, with addresses that mean nothing. */
static void store_env(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s)
{
    u8 *env = c->fpu->bounce;
    u64 ea = cpu_ea(c, i);
    bool small = s->flags & STUB_ENV16, save = s->kind == STUB_FNSAVE;
    check_env_aligned(c, i, s, ea);
    cpu_fpu_probe_write(c, i->seg, ea, s->size);
    cpu_fpu_call(c, s, env);
    if (small)
        env_out16(c, env);
    else
        env_out32(c, env);
    if (save) {
        struct cpu_fpu *f = c->fpu;
        f->fip = f->fdp = 0;
        f->fop = f->fcs = f->fds = 0;
        if (small)
            for (unsigned n = 0; n < 80; n++)
                env[14 + n] = env[ENV_SIZE + n];
    }
    cpu_fpu_copy_out(c, i->seg, ea, env, s->size);
}

struct pointers {
    u32 ip, dp;
    u16 cs, ds, op;
};

static void env_in32(const struct cpu *c, const u8 *env, struct pointers *p)
{
    *p = (struct pointers){.ip = get32(env + 12), .dp = get32(env + 20)};
    if (cpu_realish(c)) {
        p->op = get16(env + 16) & 0x7ff;
        p->ip = (p->ip & 0xffff) | (get32(env + 16) >> 12 & 0xffff) << 16;
        p->dp = (p->dp & 0xffff) | (get32(env + 24) >> 12 & 0xffff) << 16;
        return;
    }
    p->op = get16(env + 18) & 0x7ff;
    p->cs = get16(env + 16);
    p->ds = get16(env + 24);
}

static void env_in16(const struct cpu *c, const u8 *env, struct pointers *p)
{
    *p = (struct pointers){.ip = get16(env + 6), .dp = get16(env + 10)};
    if (cpu_realish(c)) {
        p->op = get16(env + 8) & 0x7ff;
        p->ip |= (u32)get16(env + 8) >> 12 << 16;
        p->dp |= (u32)get16(env + 12) >> 12 << 16;
        return;
    }
    p->cs = get16(env + 8);
    p->ds = get16(env + 12);
}

/* FLDENV, FRSTOR: the stub loads the host's layout. Waits for pending exceptions, unlike stores. */
static void load_env(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s)
{
    struct cpu_fpu *f = c->fpu;
    struct pointers p;
    u8 in[128] __attribute__((aligned(8))), *env = f->bounce;
    bool small = s->flags & STUB_ENV16;
    unsigned head = small ? 14 : ENV_SIZE, word = small ? 2 : 4;
    check_pending(c, i, s);
    check_env_aligned(c, i, s, cpu_ea(c, i));
    cpu_fpu_copy_in(c, i->seg, cpu_ea(c, i), in, s->size);
    if (small)
        env_in16(c, in, &p);
    else
        env_in32(c, in, &p);
    cpu_fill(env, 0, ENV_SIZE);
    for (unsigned n = 0; n < 3; n++)
        put16(env + 4 * n, get16(in + word * n));
    cpu_copy(env + ENV_SIZE, in + head, s->size - head);
    unsigned fault = cpu_fpu_call(c, s, env);
    if (unlikely(fault))
        cpu_fpu_raise(c, fault);
    f->fip = p.ip;
    f->fdp = p.dp;
    f->fop = p.op;
    f->fcs = p.cs;
    f->fds = p.ds;
}

static void init(struct cpu *c, const struct fpu_stub *s)
{
    struct cpu_fpu *f = c->fpu;
    cpu_fpu_call(c, s, NULL);
    f->fip = f->fdp = 0;
    f->fop = f->fcs = f->fds = 0;
}

/* --- */

static void run_special(struct cpu *c, const struct x86_insn *i, const struct fpu_stub *s)
{
    switch (s->kind) {
    case STUB_MASKED:
        cpu_fpu_masked(c, i, s, cpu_ea(c, i));
        break;
    case STUB_MASKMOV:
        cpu_fpu_masked(c, i, s, c->reg[RDI] & size_mask(i->adsize));
        break;
    case STUB_FNINIT:
        init(c, s);
        break;
    case STUB_FNSTENV:
    case STUB_FNSAVE:
        store_env(c, i, s);
        break;
    case STUB_FLDENV:
    case STUB_FRSTOR:
        load_env(c, i, s);
        break;
    case STUB_ZERO:
        if (c->mode == X86_MODE64)
            cpu_fpu_call(c, s, NULL);
        else
            cpu_fpu_zero(c, x86_row(i)->op == X86_VZEROALL);
        break;
    default:
        cpu_fpu_gather(c, i, s);
        break;
    }
}

void cpu_fpu_exec(struct cpu *c, const struct x86_insn *i)
{
    struct cpu_fpu *f = c->fpu;
    if (unlikely(i->imm >> 32 != f->generation)) {
        if (!i->imm)
            cpu_throw_ud(c);
        cpu_unwind(c); /* the stub is gone: the engine decodes anew and comes back */
    }
    struct fpu_stub *s = &f->stub[(u32)i->imm];
    cpu_fpu_check(c, s->need);
    if (unlikely(c->x87_last))
        cpu_fpu_take_noted(c);
    if (unlikely(s->flags & STUB_CONTROL))
        cpu_fpu_off(c);
    if (likely(s->kind == STUB_PLAIN))
        run_plain(c, i, s);
    else
        run_special(c, i, s);
    s->ran = true;
}
