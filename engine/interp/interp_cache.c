/*
 * interp_cache.c - decoded blocks: finding, making and dropping them.
 */
#include <string.h>
#include <sys/mman.h>

#include "cpu/cpu_debug.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_mem.h"
#include "cpu/insn_int.h"
#include "engine/interp/interp.h"

/* Blocks have some 450 bytes each, and a quarter of the table stays free. */
#define HASH_BITS_MIN 16
#define BLOCK_USUAL   256

/*
 * What runs once fills the arena too: a kernel's boot leaves most of its code behind. So it is
 * dropped some times before more memory is taken, by so much each time.
 */
#define FILLS_FIRST 4
#define ARENA_GROWS 4

static size_t hash_size(const struct interp_cpu *ic)
{
    return sizeof(*ic->hash) << ic->hash_bits;
}

int interp_cache_init(struct interp_cpu *ic, size_t first, size_t most, struct err *e)
{
    ic->hash_bits = HASH_BITS_MIN;
    while ((size_t)BLOCK_USUAL << ic->hash_bits < most)
        ic->hash_bits++;
    ic->arena_size = most;
    ic->arena_limit = first;
    ic->arena = reserve_memory(most);
    ic->hash = reserve_memory(hash_size(ic));
    if (ic->arena && ic->hash)
        return 0;
    err_errno(e, "cannot allocate %zu KiB for decoded code", most >> 10);
    interp_cache_free(ic);
    return -1;
}

void interp_cache_free(struct interp_cpu *ic)
{
    if (ic->arena)
        munmap(ic->arena, ic->arena_size);
    if (ic->hash)
        munmap(ic->hash, hash_size(ic));
    ic->arena = NULL;
    ic->hash = NULL;
}

void interp_cache_flush(struct interp_cpu *ic)
{
    cpu_fill(ic->hash, 0, hash_size(ic));
    ic->hash_used = 0;
    cpu_fill(ic->jump, 0, sizeof(ic->jump));
    ic->arena_used = 0;
    ic->flushes++;
}

/* --- by physical address --- */

static inline unsigned hash_mask(const struct interp_cpu *ic)
{
    return (1u << ic->hash_bits) - 1;
}

static bool hash_full(const struct interp_cpu *ic, unsigned more)
{
    return ic->hash_used + more >= hash_mask(ic) / 4 * 3;
}

static inline u64 hash_of(gpa_t gpa)
{
    return gpa * 0x9e3779b97f4a7c15ull;
}

/* An entry: the upper bits of the hash, so that most others' blocks need not be looked at. */
static inline u64 hash_entry(gpa_t gpa, const struct block *b)
{
    return (u64)b | hash_of(gpa) >> 32 << 48;
}

static inline struct block *hash_block(u64 entry)
{
    return (struct block *)(entry & (BIT(48) - 1));
}

static inline unsigned hash_slot(const struct interp_cpu *ic, gpa_t gpa)
{
    return (unsigned)(hash_of(gpa) >> (64 - ic->hash_bits));
}

static void hash_insert(struct cpu *c, struct interp_cpu *ic, struct block *b)
{
    u64 entry = hash_entry(b->gpa, b);
    unsigned n = hash_slot(ic, b->gpa), mask = hash_mask(ic);
    for (; ic->hash[n]; n = (n + 1) & mask) {
        const struct block *o = hash_block(ic->hash[n]);
        if ((ic->hash[n] ^ entry) >> 48 == 0 && o->gpa == b->gpa &&
            mem_code_gen(c->mem, o->page) != o->gen)
            break; /* what it takes the place of is stale */
    }
    ic->hash_used += !ic->hash[n];
    ic->hash[n] = entry;
}

/* Does control, or the way what follows is decoded, checked or interrupted, change after this? */
static bool ends_block(const struct x86_decoded *d, cpu_insn_fn *fn)
{
    if (fn == insn_ud)
        return true;
    if (d->op == X86_CLI || d->op == X86_SWAPGS || d->op == X86_WRFSBASE || d->op == X86_WRGSBASE)
        return false; /* privileged state that what follows looks at anew */
    if (x86_row(&d->i)->attr & (X86_ENDS_BLOCK | X86_WRITES_CR))
        return true;
    if (d->i.prefix & (X86_PFX_REP | X86_PFX_REPNE) && x86_row(&d->i)->attr & X86_STRING)
        return true; /* may leave in the middle */
    switch (d->op) {
    case X86_STI: /* interrupts may be taken after the next instruction */
    case X86_POPF:
    case X86_MOV_TO_SREG:
    case X86_POP_SREG:
    case X86_LSS:
    case X86_LDS:
    case X86_LES:
    case X86_LFS:
    case X86_LGS:
    case X86_HLT:
    case X86_PAUSE:
    case X86_IN: /* time has passed: a device may have raised an interrupt */
    case X86_OUT:
    case X86_INS:
    case X86_OUTS:
    case X86_WRMSR:
    case X86_CLAC:
    case X86_STAC:
    case X86_SERIALIZE:
    case X86_CPUID:
    case X86_XSETBV:
        return true;
    default:
        return false;
    }
}

static void too_long(struct cpu *c, const struct x86_insn *i)
{
    cpu_throw_gp(c, 0);
}

/* Room for the largest block; drops everything when the arena is full. */
static struct block *block_alloc(struct interp_cpu *ic)
{
    size_t most = sizeof(struct block) + BLOCK_OPS_MAX * sizeof(struct op);
    if (ic->arena_used + most > ic->arena_limit || hash_full(ic, 0)) {
        interp_cache_flush(ic);
        if (++ic->fills >= FILLS_FIRST)
            ic->arena_limit = min_u64(ic->arena_limit * ARENA_GROWS, ic->arena_size);
    }
    return (struct block *)(ic->arena + ic->arena_used);
}

static void block_keep(struct cpu *c, struct interp_cpu *ic, struct block *b)
{
    size_t size = sizeof(*b) + b->nops * sizeof(struct op);
    ic->arena_used += align_up(size, 32);
    hash_insert(c, ic, b);
}

static bool append(struct cpu *c, struct block *b, struct x86_decoded *d)
{
    struct op *op = &b->op[b->nops++];
    op->fn = cpu_insn_bind(c, d);
    op->i = d->i;
    b->bytes += d->i.len;
    return ends_block(d, op->fn);
}

/* An instruction that cannot be executed as such: its body raises the exception. */
static void append_fault(struct block *b, cpu_insn_fn *fn)
{
    b->op[b->nops++] = (struct op){.fn = fn, .i = {.len = 0}};
}

/* The one instruction at la that goes on in the next page. */
static void decode_crossing(struct cpu *c, struct block *b, gva_t la)
{
    struct x86_decoded d;
    gva_t next = ((la & ~PAGE_MASK) + PAGE_SIZE) & c->la_mask;
    const struct itlb_entry *second = cpu_code_page(c, next);
    if (second) {
        b->page2 = second->page;
        b->gpa2 = second->gpa & ~PAGE_MASK;
        b->gen2 = mem_code_gen(c->mem, b->page2);
        mem_code_mark(c->mem, b->page2, mem_chunks(0, X86_INSN_MAX));
    }
    b->crosses = true;
    if (cpu_insn_fetch(c, &d))
        append(c, b, &d);
    else
        append_fault(b, insn_ud);
    if (!second)
        b->gen--; /* not RAM: used once */
}

static struct block *decode(struct cpu *c, struct interp_cpu *ic, gva_t la,
                            const struct itlb_entry *page)
{
    struct block *b = block_alloc(ic);
    unsigned off = la & PAGE_MASK;
    *b = (struct block){.gpa = (page->gpa & ~PAGE_MASK) | off,
                        .page = page->page,
                        .mode = c->mode,
                        .gen = mem_code_gen(c->mem, page->page)};
    /* Mark what a block can reach before reading it (mem.h, code tracking). */
    unsigned most = min_u64(PAGE_SIZE - off, BLOCK_OPS_MAX * X86_INSN_MAX);
    mem_code_mark(c->mem, page->page, mem_chunks(off, most));
    const u8 *code = page->host + off;
    b->marked = c->debug && cpu_debug_marked(c, off);
    for (bool end = false; !end && b->nops < BLOCK_OPS_MAX;) {
        struct x86_decoded d;
        unsigned avail = PAGE_SIZE - off - b->bytes;
        if (unlikely(c->debug) && b->nops && avail && cpu_debug_marked(c, off + b->bytes))
            break;
        switch (avail ? x86_decode(code + b->bytes, avail, c->mode, &d) : X86_MORE) {
        case X86_OK:
            end = b->ends = append(c, b, &d);
            break;
        case X86_UD:
            append_fault(b, insn_ud);
            end = b->ends = true;
            break;
        case X86_TOO_LONG:
            append_fault(b, too_long);
            end = b->ends = true;
            break;
        case X86_MORE:
            if (b->nops == 0)
                decode_crossing(c, b, la);
            end = true;
        }
    }
    if (interp_drop_dead(c, ic))
        return decode(c, ic, la, page);
    block_keep(c, ic, b);
    ic->decoded += b->nops;
    return b;
}

/* The FP stubs were dropped: every handle in the cache is dead, perhaps in the block at hand. */
bool interp_drop_dead(struct cpu *c, struct interp_cpu *ic)
{
    if (ic->fpu_gen == cpu_fpu_generation(c))
        return false;
    ic->fpu_gen = cpu_fpu_generation(c);
    interp_cache_flush(ic);
    return true;
}

/* --- blocks that are decoded late --- */

/* The code is not what it was: the block is stale, or about to be. */
static void go_again(struct cpu *c, const struct x86_insn *i)
{
    cpu_unwind(c);
}

static void bind_op(struct cpu *c, const struct block *b, struct op *op, const u8 *code,
                    unsigned avail)
{
    struct x86_decoded d;
    unsigned len = op->i.len;
    enum x86_status s = avail ? x86_decode(code, avail, (enum x86_mode)b->mode, &d) : X86_MORE;
    *op = (struct op){.fn = go_again, .i = {.len = (u8)len}};
    if (s == X86_OK && d.i.len == len) {
        op->fn = cpu_insn_bind(c, &d);
        op->i = d.i;
    } else if (s != X86_OK && s != X86_MORE && !len) {
        op->fn = s == X86_UD ? insn_ud : too_long;
    }
}

void interp_bind(struct cpu *c, struct block *b)
{
    if (!b->late)
        return;
    const u8 *code = mem_ptr(c->mem, b->gpa);
    unsigned avail = PAGE_SIZE - (b->gpa & PAGE_MASK);
    b->late = false;
    for (unsigned n = 0; n < b->nops; n++) {
        unsigned len = b->op[n].i.len;
        bind_op(c, b, &b->op[n], code, avail);
        code += len;
        avail -= len;
    }
}

static struct op *op_of(const struct x86_insn *i)
{
    return (struct op *)((u8 *)(u64)i - offsetof(struct op, i));
}

/* disp is the way back to the block. */
void interp_bind_insn(struct cpu *c, const struct x86_insn *i)
{
    interp_bind(c, (struct block *)((u8 *)op_of(i) - i->disp));
    if (interp_drop_dead(c, c->engine))
        c->code_stale = true;
}

/* The body of an instruction of such a block. */
static void run_late(struct cpu *c, const struct x86_insn *i)
{
    interp_bind_insn(c, i);
    op_of(i)->fn(c, i);
}

bool interp_has_room(const struct interp_cpu *ic, unsigned nblocks, unsigned nops)
{
    size_t most = nblocks * (sizeof(struct block) + 32) + nops * sizeof(struct op);
    return ic->arena_used + most <= ic->arena_limit && !hash_full(ic, nblocks);
}

struct block *interp_add_late(struct cpu *c, struct interp_cpu *ic, const struct block *like,
                              const u8 *length)
{
    struct block *b = (struct block *)(ic->arena + ic->arena_used);
    *b = *like;
    b->late = true;
    for (unsigned n = 0; n < b->nops; n++) {
        s32 back = (s32)((u8 *)&b->op[n] - (u8 *)b);
        b->op[n] = (struct op){.fn = run_late,
                               .i = {.len = length[n], .scale = INTERP_LATE, .disp = back}};
    }
    block_keep(c, ic, b);
    return b;
}

/* Is a block's second page still the one it was decoded from? */
static bool second_page_good(struct cpu *c, const struct block *b, gva_t la)
{
    gva_t next = ((la & ~PAGE_MASK) + PAGE_SIZE) & c->la_mask;
    const struct itlb_entry *p = cpu_code_page(c, next);
    return p && (p->gpa & ~PAGE_MASK) == b->gpa2 && mem_code_gen(c->mem, b->page2) == b->gen2;
}

static bool good(struct cpu *c, const struct block *b, gva_t la)
{
    if (mem_code_gen(c->mem, b->page) != b->gen)
        return false;
    return likely(!b->crosses) || second_page_good(c, b, la);
}

/* The block for a physical address. */
static struct block *find_hashed(struct cpu *c, struct interp_cpu *ic, gpa_t gpa, gva_t la)
{
    unsigned mask = hash_mask(ic);
    u64 want = hash_entry(gpa, NULL);
    for (unsigned n = hash_slot(ic, gpa); ic->hash[n]; n = (n + 1) & mask) {
        struct block *b = hash_block(ic->hash[n]);
        if ((ic->hash[n] ^ want) >> 48 == 0 && b->gpa == gpa && b->mode == c->mode &&
            good(c, b, la))
            return b;
    }
    return NULL;
}

struct block *interp_peek(struct cpu *c, struct interp_cpu *ic, gpa_t gpa, enum x86_mode mode)
{
    unsigned mask = hash_mask(ic);
    u64 want = hash_entry(gpa, NULL);
    for (unsigned n = hash_slot(ic, gpa); ic->hash[n]; n = (n + 1) & mask) {
        struct block *b = hash_block(ic->hash[n]);
        if ((ic->hash[n] ^ want) >> 48 == 0 && b->gpa == gpa && b->mode == mode && !b->crosses &&
            !b->marked && mem_code_gen(c->mem, b->page) == b->gen)
            return b;
    }
    return NULL;
}

static struct block *find_physical(struct cpu *c, struct interp_cpu *ic, gva_t la)
{
    const struct itlb_entry *page = cpu_code_page(c, la);
    if (unlikely(ic->marks != cpu_debug_marks(c))) {
        ic->marks = cpu_debug_marks(c);
        interp_cache_flush(ic);
    }
    ic->lookups++;
    if (!page)
        return NULL;
    gpa_t gpa = (page->gpa & ~PAGE_MASK) | (la & PAGE_MASK);
    struct block *b = find_hashed(c, ic, gpa, la);
    if (!b && ic->other)
        b = ic->other(c, ic, gpa, page->page, page->host);
    return b ? b : decode(c, ic, la, page);
}

struct block *interp_find(struct cpu *c, struct interp_cpu *ic)
{
    gva_t la = (c->reg[X86_SLOT_RIP] + c->seg[CS].base) & c->la_mask;
    struct jump_entry *j = &ic->jump[(la ^ la >> JUMP_BITS) & ((1u << JUMP_BITS) - 1)];
    u16 user_epoch = c->cpl == 3 ? c->user_epoch : 0;
    if (likely(j->la == la && j->block && j->epoch == c->map_epoch && j->mode == c->mode &&
               j->user_epoch == user_epoch && good(c, j->block, la)))
        return j->block;
    struct block *b = find_physical(c, ic, la);
    if (b && unlikely(b->marked))
        cpu_debug_reach(c);
    else if (b)
        *j = (struct jump_entry){
            .la = la, .epoch = c->map_epoch, .user_epoch = user_epoch, .mode = c->mode, .block = b};
    return b;
}
