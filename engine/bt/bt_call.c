/*
 * bt_call.c - what emitted code counts on: jump tables, prediction stacks and views; and what it
 * calls: C bodies, and fills of the shadow table.
 */
#include "cpu/cpu_event.h"
#include "cpu/cpu_fpu.h"
#include "cpu/cpu_insn.h"
#include "engine/bt/bt_emit.h"

/* --- jump tables --- */

u64 *bt_slot(const struct bt_cpu *bt, unsigned view, unsigned slot)
{
    return (u64 *)((u8 *)cpu_window(bt->cpu) + BT_TAGS(view)) + (size_t)2 * slot;
}

/* What no RIP that is looked for in this slot looks like. */
u64 bt_no_tag(unsigned slot)
{
    return slot < 2 ? 2 : 0;
}

static void clear_view(struct bt_cpu *bt, unsigned view)
{
    for (unsigned n = 0; n < bt->nfilled[view]; n++) {
        unsigned slot = bt->filled[view][n];
        *bt_slot(bt, view, slot) = bt_no_tag(slot);
    }
    bt->nfilled[view] = 0;
}

/* No return is predicted any more. */
void bt_reset_stack(struct bt_cpu *bt, unsigned view)
{
    u64 *word = bt->cpu->emitted, base = (u64)cpu_window(bt->cpu) + (u64)BT_STACK_BASE(view);
    word[view == word[BT_VIEW] ? BT_ESP : BT_VIEW_ESP + view] = base;
}

static void forget_jumps(struct bt_cpu *bt)
{
    bt->forgotten++;
    for (unsigned v = 0; v < BT_VIEWS; v++) {
        clear_view(bt, v);
        bt_reset_stack(bt, v);
    }
}

static void put_jump(struct bt_cpu *bt, unsigned view, unsigned slot, u64 tag, u64 code)
{
    u64 *s = bt_slot(bt, view, slot);
    if (s[0] == bt_no_tag(slot)) {
        if (bt->nfilled[view] == BT_JUMPS)
            clear_view(bt, view);
        bt->filled[view][bt->nfilled[view]++] = (u16)slot;
    }
    s[0] = tag;
    s[1] = code;
}

/* Whoever has its slot moves to the second one. */
void bt_remember(struct bt_cpu *bt, unsigned view, u64 tag, const u8 *code)
{
    unsigned slot = bt_jump_slot(tag), second = BT_SECOND_SLOT(slot);
    const u64 *s = bt_slot(bt, view, slot);
    if (*bt_slot(bt, view, second) == tag)
        slot = second;
    else if (s[0] != tag && s[0] != bt_no_tag(slot))
        put_jump(bt, view, second, s[0], s[1]);
    put_jump(bt, view, slot, tag, (u64)code);
}

/* --- dropping --- */

static void drop_all(struct bt_cpu *bt)
{
    if (bt->gdbjit)
        bt_gdbjit_drop(bt->gdbjit);
    forget_jumps(bt);
    bt_known_next(&bt->known);
    bt->nfaults = 0;
    bt->at = bt->code + BT_STUBS * BT_STUB_SIZE;
}

/*
 * The user's address space may be another one. Salt is above what addresses have; and below, so
 * that spaces do not contend for the same slots.
 */
static void take_space(struct cpu *c, struct bt_cpu *bt)
{
    u64 salt = (u64)c->user_epoch << 48 | (c->user_epoch * 0x9e35u & (BT_JUMPS - 1));
    if (c->emitted[BT_SALT] == salt)
        return;
    c->emitted[BT_SALT] = salt;
    bt_reset_stack(bt, bt_view(TLB_USER, false));
    bt_reset_stack(bt, bt_view(TLB_USER, true));
}

/* What changed since translations were last entered? */
void bt_catch_up(struct cpu *c, struct bt_cpu *bt)
{
    if (bt->flushes_seen != bt->interp.flushes) { /* the blocks are gone */
        bt->flushes_seen = bt->interp.flushes;
        drop_all(bt);
    }
    u32 code_epoch = atomic_load_explicit(&c->mem->code_epoch, memory_order_acquire);
    if (bt->code_epoch != code_epoch || bt->epoch != c->map_epoch) {
        bt->code_epoch = code_epoch;
        bt->epoch = c->map_epoch;
        forget_jumps(bt);
    }
    take_space(c, bt);
    cpu_shadow_catch_up(c);
}

/* --- from emitted code --- */

static const struct op *site_op(const struct bt_cpu *bt, const struct bt_site *s)
{
    return (const struct op *)(bt->interp.arena + s->op);
}

static void run_body(struct cpu *c, struct bt_cpu *bt, const struct bt_site *s)
{
    const struct op *op = site_op(bt, s);
    bt->bodies++;
    if (unlikely(op->i.scale == INTERP_LATE))
        interp_bind_insn(c, &op->i);
    bt->body_count[op->i.row]++;
    c->reg[X86_SLOT_RIP] = bt_site_rip(c, s);
    c->insn = &op->i;
    op->fn(c, &op->i);
    c->insn = NULL;
}

/* In emitted code again, unless something has happened; it is seen, or this is (demand_leave()). */
static const u8 *go_on(struct cpu *c, const u8 *at)
{
    c->emitted[BT_IN_CODE] = 1;
    __asm__ volatile("" : : : "memory");
    if (likely(!atomic_load_explicit(&c->poll, memory_order_relaxed)))
        return at;
    c->emitted[BT_IN_CODE] = 0;
    return NULL;
}

/* If the body has sent the FP state home, it is fetched again for the code that counts on it. */
static bool fpu_as_it_was(struct cpu *c, const struct bt_site *s, u32 off)
{
    if (!(s->flags & SITE_FPU) || off == *(u32 *)c->fpu_off)
        return true;
    cpu_fpu_ready(c, FPU_SSE);
    return off == *(u32 *)c->fpu_off;
}

/* Code of CPL 1 and 2 is interpreted: translations for the kernel's views are CPL 0's. */
static bool is_inner(const struct cpu *c)
{
    return c->cpl == 1 || c->cpl == 2;
}

static bool flat(const struct cpu *c, unsigned seg, bool write)
{
    const struct seg *s = &c->seg[seg];
    return !s->base && s->rd_end >> 32 && (!write || s->wr_end >> 32);
}

/* User code in the upper half of the address space: far entries do not take it (bt_translate.c). */
static bool user_in_upper_half(const struct cpu *c)
{
    return c->cpl == 3 && c->reg[X86_SLOT_RIP] >> 47;
}

/*
 * 64-bit code, and 32-bit code with flat segments: translations take base 0 and no limit for
 * granted. Whatever loads a segment register ends its block and comes by here.
 */
bool bt_translatable(const struct cpu *c)
{
    if (c->tlb == c->tlbs[TLB_STRICT] || is_inner(c))
        return false;
    if (likely(c->mode == X86_MODE64))
        return !user_in_upper_half(c);
    return c->mode == X86_MODE32 && c->seg[SS].attr & SEG_DB && !c->seg[CS].base &&
           c->seg[CS].limit == 0xffffffff && flat(c, DS, true) && flat(c, ES, true) &&
           flat(c, SS, true);
}

/* Nothing but RIP has changed that emitted code counts on. */
static bool undisturbed(struct cpu *c, struct bt_cpu *bt)
{
    take_space(c, bt);
    return !c->code_stale && !cpu_event_pending(c) && c->activity == CPU_RUNNING &&
           bt->epoch == c->map_epoch && !c->shadow_ss && !c->exc.pending &&
           bt->code_epoch == atomic_load_explicit(&c->mem->code_epoch, memory_order_relaxed);
}

int bt_view_of(const struct cpu *c)
{
    unsigned m = (unsigned)(c->tlb - c->tlbs[0]) >> TLB_BITS;
    return m == TLB_STRICT || is_inner(c) ? -1 : (int)bt_view(m, c->mode == X86_MODE64);
}

/* Execution goes on behind the instruction as it was. */
static bool went_on(struct cpu *c, struct bt_cpu *bt, const struct bt_site *s)
{
    return undisturbed(c, bt) && bt_view_of(c) == (int)c->emitted[BT_VIEW] && bt_translatable(c) &&
           c->reg[X86_SLOT_RIP] == bt_site_rip(c, s);
}

static const u8 *body_then(struct cpu *c, struct bt_cpu *bt, const struct bt_site *s)
{
    u32 off = *(u32 *)c->fpu_off;
    run_body(c, bt, s);
    if (c->code_stale || s->flags & SITE_LEAVE || !fpu_as_it_was(c, s, off) ||
        (s->flags & SITE_NEXT && !went_on(c, bt, s)))
        return NULL;
    return go_on(c, (const u8 *)s + s->retry + s->resume);
}

const u8 *bt_body(struct cpu *c, const struct bt_site *s)
{
    return body_then(c, c->engine, s);
}

const u8 *bt_miss(struct cpu *c, const struct bt_site *s, u64 la)
{
    struct bt_cpu *bt = c->engine;
    const struct op *op = site_op(bt, s);
    bt->misses++;
    c->reg[X86_SLOT_RIP] = bt_site_rip(c, s);
    c->insn = &op->i;
    bool filled = cpu_shadow_fill(c, la, s->size, s->flags & SITE_WRITE, !(s->flags & SITE_MASKED));
    c->insn = NULL;
    if (!filled && (la & PAGE_MASK) + s->size > PAGE_SIZE)
        bt->count.crossing++;
    else if (!filled)
        bt->count.no_entry++;
    if (!filled || s->flags & SITE_SHADOW)
        return body_then(c, bt, s);
    const u8 *at = go_on(c, (const u8 *)s + s->retry);
    if (!at)
        c->reg[X86_SLOT_RIP] -= op->i.len;
    return at;
}

const u8 *bt_next(struct cpu *c, const struct bt_site *s)
{
    struct bt_cpu *bt = c->engine;
    run_body(c, bt, s);
    if (!went_on(c, bt, s))
        return NULL;
    return go_on(c, (const u8 *)s + s->retry + s->resume);
}

/* Emitted code goes on in this view. */
void bt_enter_view(struct cpu *c, unsigned view)
{
    u64 *word = c->emitted;
    if (word[BT_VIEW] == view)
        return;
    word[BT_VIEW_ESP + word[BT_VIEW]] = word[BT_ESP];
    word[BT_VIEW] = view;
    word[BT_ESP] = word[BT_VIEW_ESP + view];
}

/* On where RIP says, if the jump table has it. */
static const u8 *by_table(struct cpu *c, struct bt_cpu *bt)
{
    if (unlikely(c->emitted[BT_ARRIVE]) && c->cpl == 3 && !BT_USER(c->emitted[BT_VIEW])) {
        c->emitted[BT_ARRIVE] |= BT_ARRIVE_HERE;
        return NULL;
    }
    if (!bt_translatable(c) || !undisturbed(c, bt))
        return NULL;
    unsigned view = (unsigned)bt_view_of(c);
    u64 tag = c->reg[X86_SLOT_RIP] + (BT_USER(view) ? c->emitted[BT_SALT] : 0);
    unsigned slot = bt_jump_slot(tag);
    if (*bt_slot(bt, view, slot) != tag)
        slot = BT_SECOND_SLOT(slot);
    const u64 *s = bt_slot(bt, view, slot);
    if (s[0] != tag)
        return NULL;
    cpu_clear_rf(c);
    bt_enter_view(c, view);
    c->emitted[BT_R14] = tag;
    return go_on(c, (const u8 *)s[1]);
}

const u8 *bt_jump(struct cpu *c, const struct bt_site *s)
{
    struct bt_cpu *bt = c->engine;
    run_body(c, bt, s);
    return by_table(c, bt);
}

/* The block of the instruction at RIP, if it goes on in the next page. */
static struct block *find_crossing(struct cpu *c, struct bt_cpu *bt, const struct bt_exit *x)
{
    struct bt_crossing *k = &bt->crossing[(u64)x >> 4 & (BT_CROSSINGS - 1)];
    u32 code_epoch = atomic_load_explicit(&c->mem->code_epoch, memory_order_acquire);
    u64 rip = c->reg[X86_SLOT_RIP], epochs = c->map_epoch | (u64)code_epoch << 32;
    u64 flushes = bt->interp.flushes << 16 | (c->cpl == 3 ? c->user_epoch : 0);
    if (likely(k->exit == x && k->rip == rip && k->epochs == epochs && k->flushes == flushes))
        return k->block;
    struct block *b = interp_find(c, &bt->interp);
    if (!b || !b->crosses || bt->flushes_seen != bt->interp.flushes)
        return NULL;
    *k = (struct bt_crossing){
        .exit = x, .rip = rip, .epochs = epochs, .flushes = flushes, .block = b};
    return b;
}

const u8 *bt_cross(struct cpu *c, const struct bt_exit *x)
{
    struct bt_cpu *bt = c->engine;
    c->reg[X86_SLOT_RIP] = (c->emitted[BT_VBASE] + (u64)(s64)x->offset) & c->la_mask;
    struct block *b = find_crossing(c, bt, x);
    if (!b)
        return NULL;
    interp_run_block(c, &bt->interp, b);
    return by_table(c, bt);
}
