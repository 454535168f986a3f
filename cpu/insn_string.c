/*
 * insn_string.c - MOVS CMPS STOS LODS SCAS INS OUTS with and without REP, and IN and OUT.
 *
 * A repeated instruction can be left after any iteration: RIP goes back to it and the registers
 * say what remains (SDM vol. 2B, REP). That is done when an event is due. Runs of whole elements
 * that stay within a page on both sides are done at once.
 */
#include "cpu/cpu_cpuid.h"
#include "cpu/cpu_event.h"
#include "cpu/cpu_seg.h"
#include "cpu/insn_int.h"
#include "cpu/insn_ops.h"
#include "cpu/insn_sys.h"

static inline u64 addr_get(const struct cpu *c, const struct x86_insn *i, unsigned reg)
{
    return c->reg[reg] & size_mask(i->adsize);
}

static inline void advance(struct cpu *c, const struct x86_insn *i, unsigned reg, s64 by)
{
    reg_set(c, reg, i->adsize, c->reg[reg] + by);
}

static inline s64 step_of(const struct cpu *c, const struct x86_insn *i)
{
    return c->eflags & FLAG_DF ? -(s64)i->opsize : (s64)i->opsize;
}

static inline bool repeats(const struct x86_insn *i)
{
    return i->prefix & (X86_PFX_REP | X86_PFX_REPNE);
}

static inline unsigned dest_seg(const struct cpu *c)
{
    return c->mode == X86_MODE64 ? X86_SEG_FLAT : ES;
}

/* How many iterations to run before looking up again; step by step under TF. */
#define REP_SLICE 4096u

/* What a body does for one element: returns false to end a REPE or REPNE. */
typedef bool element_fn(struct cpu *c, const struct x86_insn *i);
/* Does up to n elements at once, forward; returns how many (0: not possible here). Never throws
 * after the first has been done. */
typedef u64 run_fn(struct cpu *c, const struct x86_insn *i, u64 n);

/* With 32-bit addresses in 64-bit code Intel's processors cut RCX to 32 bits even if the count is
 * zero or the first element faults; MOVS and STOS do the same to their addresses. */
static void cut_registers(struct cpu *c, const struct x86_insn *i)
{
    u16 op = x86_row(i)->op;
    if (cpu_model_is_amd(c->model))
        return;
    c->reg[RCX] = (u32)c->reg[RCX];
    if (op == X86_MOVS || op == X86_STOS)
        c->reg[RDI] = (u32)c->reg[RDI];
    if (op == X86_MOVS)
        c->reg[RSI] = (u32)c->reg[RSI];
}

static inline __attribute__((always_inline)) void repeat(struct cpu *c, const struct x86_insn *i,
                                                         element_fn *one, run_fn *run)
{
    if (!repeats(i)) {
        one(c, i);
        return;
    }
    if (unlikely(i->adsize == 4 && c->mode == X86_MODE64))
        cut_registers(c, i);
    u64 left = addr_get(c, i, RCX);
    unsigned slice = REP_SLICE;
    u16 flags = c->aflags;
    while (left) {
        u64 done = 1;
        bool more = true;
        if (run && left > 1 && !(c->eflags & FLAG_DF) && !cpu_event_pending(c) &&
            (done = run(c, i, left)) != 0)
            ;
        else {
            more = one(c, i);
            done = 1;
        }
        left -= done;
        reg_set(c, RCX, i->adsize, left);
        if (!more)
            return;
        /* Until CMPS and SCAS are done flags are as before, for a fault that may come (SDM vol. 2B,
         * REP). */
        if (left)
            c->aflags = flags;
        if (left && (cpu_event_pending(c) || c->db_pending || c->code_stale || !--slice)) {
            c->reg[X86_SLOT_RIP] -= i->len;
            /* What comes between two iterations saves RF = 1 (SDM vol. 3B, 17.3.1.1). */
            c->eflags |= FLAG_RF;
            cpu_event_set(c, EV_SLOW);
            return;
        }
    }
}

/* Elements of this size from la to the end of its page. */
static inline u64 in_page(gva_t la, unsigned size)
{
    return (PAGE_SIZE - (la & PAGE_MASK)) / size;
}

/* Offsets [ea, ea + n * size) must be within the quick limits and not wrap: cuts n to fit. */
static inline u64 in_segment(const struct cpu *c, const struct x86_insn *i, u64 ea, u64 end, u64 n)
{
    u64 top = min_u64(end, i->adsize == 8 ? UINT64_MAX : size_mask(i->adsize));
    return ea >= top ? 0 : min_u64(n, (top - ea) / i->opsize);
}

/* --- MOVS --- */

static bool movs_one(struct cpu *c, const struct x86_insn *i)
{
    u64 v = cpu_ld(c, i->seg, addr_get(c, i, RSI), i->opsize);
    cpu_st(c, dest_seg(c), addr_get(c, i, RDI), i->opsize, v);
    s64 step = step_of(c, i);
    advance(c, i, RSI, step);
    advance(c, i, RDI, step);
    return true;
}

/* Overlapping, destination ahead: the pattern must repeat as if done one by one. */
static void copy_elements(u8 *dst, const u8 *src, unsigned size, u64 n)
{
    for (; n; n--, dst += size, src += size) {
        u64 v = 0;
        cpu_copy(&v, src, size);
        cpu_copy(dst, &v, size);
    }
}

static u64 movs_run(struct cpu *c, const struct x86_insn *i, u64 n)
{
    unsigned size = i->opsize, es = dest_seg(c);
    u64 si = addr_get(c, i, RSI), di = addr_get(c, i, RDI);
    n = in_segment(c, i, si, c->seg[i->seg].rd_end, n);
    n = in_segment(c, i, di, c->seg[es].wr_end, n);
    if (!n)
        return 0;
    gva_t from = cpu_la(c, i->seg, si, size, false), to = cpu_la(c, es, di, size, true);
    n = min_u64(n, min_u64(in_page(from, size), in_page(to, size)));
    const u8 *src = n ? cpu_rd_fast(c, from, size) : NULL;
    struct tlb_entry *t = cpu_tlb_at(c, to);
    if (!src || t->wr != (to & ~PAGE_MASK))
        return 0;
    u8 *dst = (u8 *)(to + t->addend);
    u64 bytes = n * size;
    if ((u64)(dst - src) < bytes)
        copy_elements(dst, src, size, n);
    else
        cpu_copy(dst, src, bytes);
    cpu_wrote(c, t->code, to, bytes);
    advance(c, i, RSI, (s64)bytes);
    advance(c, i, RDI, (s64)bytes);
    return n;
}

static void insn_movs(struct cpu *c, const struct x86_insn *i)
{
    repeat(c, i, movs_one, movs_run);
}

/* --- STOS --- */

static bool stos_one(struct cpu *c, const struct x86_insn *i)
{
    cpu_st(c, dest_seg(c), addr_get(c, i, RDI), i->opsize, c->reg[RAX]);
    advance(c, i, RDI, step_of(c, i));
    return true;
}

static void fill(u8 *dst, unsigned size, u64 v, u64 n)
{
    switch (size) {
    case 1:
        __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
        break;
    case 2:
        __asm__ volatile("rep stosw" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
        break;
    case 4:
        __asm__ volatile("rep stosl" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
        break;
    default:
        __asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
    }
}

static u64 stos_run(struct cpu *c, const struct x86_insn *i, u64 n)
{
    unsigned size = i->opsize, es = dest_seg(c);
    u64 di = addr_get(c, i, RDI);
    n = in_segment(c, i, di, c->seg[es].wr_end, n);
    if (!n)
        return 0;
    gva_t to = cpu_la(c, es, di, size, true);
    n = min_u64(n, in_page(to, size));
    struct tlb_entry *t = cpu_tlb_at(c, to);
    if (!n || t->wr != (to & ~PAGE_MASK))
        return 0;
    fill((u8 *)(to + t->addend), size, c->reg[RAX], n);
    cpu_wrote(c, t->code, to, n * size);
    advance(c, i, RDI, (s64)(n * size));
    return n;
}

static void insn_stos(struct cpu *c, const struct x86_insn *i)
{
    repeat(c, i, stos_one, stos_run);
}

/* --- LODS, SCAS, CMPS --- */

static bool lods_one(struct cpu *c, const struct x86_insn *i)
{
    reg_set(c, RAX, i->opsize, cpu_ld(c, i->seg, addr_get(c, i, RSI), i->opsize));
    advance(c, i, RSI, step_of(c, i));
    return true;
}

static void insn_lods(struct cpu *c, const struct x86_insn *i)
{
    repeat(c, i, lods_one, NULL);
}

static void compare(struct cpu *c, unsigned size, u64 a, u64 b)
{
    u16 fl;
    unsigned up = 64 - 8 * size; /* AF aside, flags of the operands moved to the top are the same */
    __asm__("cmpq %[b], %[a]" FLAGS_SAVE : "=a"(fl) : [a] "r"(a << up), [b] "r"(b << up) : "cc");
    if (size == 8) {
        c->aflags = fl;
        return;
    }
    u32 low = (a - b) & 0xff; /* PF and AF come from the low byte */
    u32 all = aflags_unpack(fl) & ~(FLAG_PF | FLAG_AF);
    all |= __builtin_popcount(low) & 1 ? 0 : FLAG_PF;
    all |= (a ^ b ^ low) & 0x10 ? FLAG_AF : 0;
    c->aflags = aflags_pack(all);
}

static bool goes_on(const struct cpu *c, const struct x86_insn *i)
{
    return i->prefix & X86_PFX_REP ? flag_zf(c) : !flag_zf(c);
}

static bool scas_one(struct cpu *c, const struct x86_insn *i)
{
    u64 v = cpu_ld(c, dest_seg(c), addr_get(c, i, RDI), i->opsize);
    compare(c, i->opsize, reg_get(c, RAX, i->opsize), v);
    advance(c, i, RDI, step_of(c, i));
    return goes_on(c, i);
}

static void insn_scas(struct cpu *c, const struct x86_insn *i)
{
    repeat(c, i, scas_one, NULL);
}

static bool cmps_one(struct cpu *c, const struct x86_insn *i)
{
    /* Processors read ES:rDI first: CR2 tells. */
    u64 b = cpu_ld(c, dest_seg(c), addr_get(c, i, RDI), i->opsize);
    u64 a = cpu_ld(c, i->seg, addr_get(c, i, RSI), i->opsize);
    compare(c, i->opsize, a, b);
    s64 step = step_of(c, i);
    advance(c, i, RSI, step);
    advance(c, i, RDI, step);
    return goes_on(c, i);
}

static void insn_cmps(struct cpu *c, const struct x86_insn *i)
{
    repeat(c, i, cmps_one, NULL);
}

/* --- ports --- */

static u64 port_in(struct cpu *c, u16 port, unsigned size)
{
    cpu_check_io(c, port, size);
    cpu_note_io_breakpoint(c, port, size);
    cpu_leave(c);
    return c->world->port_read(c, port, size);
}

static void port_out(struct cpu *c, u16 port, unsigned size, u64 v)
{
    cpu_check_io(c, port, size);
    cpu_note_io_breakpoint(c, port, size);
    cpu_leave(c);
    c->world->port_write(c, port, size, v & size_mask(size));
}

/* The destination is made writable before the port is read: its value must not be lost. */
static bool ins_one(struct cpu *c, const struct x86_insn *i)
{
    u16 port = (u16)c->reg[RDX];
    cpu_check_io(c, port, i->opsize);
    struct cpu_rmw m;
    cpu_rmw_begin(c, &m, dest_seg(c), addr_get(c, i, RDI), i->opsize, false);
    u64 v = port_in(c, port, i->opsize);
    cpu_copy(m.p, &v, i->opsize);
    cpu_rmw_end(c, &m);
    advance(c, i, RDI, step_of(c, i));
    return true;
}

static void insn_ins(struct cpu *c, const struct x86_insn *i)
{
    cpu_check_io(c, (u16)c->reg[RDX], i->opsize); /* even if RCX is 0 */
    repeat(c, i, ins_one, NULL);
}

static bool outs_one(struct cpu *c, const struct x86_insn *i)
{
    u16 port = (u16)c->reg[RDX];
    cpu_check_io(c, port, i->opsize);
    u64 v = cpu_ld(c, i->seg, addr_get(c, i, RSI), i->opsize);
    port_out(c, port, i->opsize, v);
    advance(c, i, RSI, step_of(c, i));
    return true;
}

static void insn_outs(struct cpu *c, const struct x86_insn *i)
{
    cpu_check_io(c, (u16)c->reg[RDX], i->opsize);
    repeat(c, i, outs_one, NULL);
}

static void insn_in(struct cpu *c, const struct x86_insn *i)
{
    u16 port = x86_row(i)->operand[1] == X86_O_I ? (u8)i->imm : (u16)c->reg[RDX];
    reg_set(c, RAX, i->opsize, port_in(c, port, i->opsize));
}

static void insn_out(struct cpu *c, const struct x86_insn *i)
{
    u16 port = x86_row(i)->operand[0] == X86_O_I ? (u8)i->imm : (u16)c->reg[RDX];
    port_out(c, port, i->opsize, c->reg[RAX]);
}

cpu_insn_fn *insn_bind_string(struct x86_decoded *d)
{
    switch (d->op) {
    case X86_MOVS:
        return insn_movs;
    case X86_CMPS:
        return insn_cmps;
    case X86_STOS:
        return insn_stos;
    case X86_LODS:
        return insn_lods;
    case X86_SCAS:
        return insn_scas;
    case X86_INS:
        return insn_ins;
    case X86_OUTS:
        return insn_outs;
    case X86_IN:
        return insn_in;
    case X86_OUT:
        return insn_out;
    default:
        return NULL;
    }
}
