/*
 * bt_direct.c - when the guest's user code is executed directly (engine/direct), and when
 * translated.
 *
 * Going there and back costs as much as some ten thousand instructions, so it pays for code that
 * computes for long without the kernel. The guest's own timer interrupts are the samples: in an
 * address space that is found in user code by one after the other the kernel's returns to it are
 * asked about. What pages such code is in is remembered, so that the next process that runs it is
 * asked about at once. Where a stay begins says much of how long it lasts: what it gained is
 * remembered by that. An account of what all of them gain and cost is kept, too, and when it is
 * overdrawn there is a pause.
 */
#include <sys/mman.h>

#include "cpu/cpu_insn.h"
#include "cpu/cpu_paging.h"
#include "engine/bt/bt.h"
#include "engine/direct/direct.h"

#define STREAK         2    /* samples in a row */
#define STREAK_SURE    5    /* ... that end a pause: it may have been for others */
#define DECLINED_MOST  1000 /* arrivals in a row: each costs as much as a hundred instructions */
#define AWAY_MOST      32   /* blocks */
#define PAUSE_SHORTEST 2    /* logarithms, in samples */
#define PAUSE_LONGEST  8

/* Nanoseconds of processor time. */
#define RETURN_COST 4000     /* of leaving, for caches and what follows */
#define CREDIT_MOST 20000000 /* what may be lost before */
#define DEBT_MOST   20000000 /* there is a pause */
#define LOSSES_MOST 64       /* stays in a row */
#define LONG_STAY   700000   /* makes a page of code known */
#define GAIN_MOST   100000   /* or loss, that a guess is made from */

/* Two bits by page. */
#define MET   1u
#define KNOWN 2u

/* --- code that computes --- */

static u64 known_size(const struct cpu *c)
{
    return align_up(2 * c->mem->npages / 8 + 1, PAGE_SIZE);
}

/* Code in RIP's page was met by a sample, or stayed long: by the second time it is known. */
static void note_page(struct bt_direct *x, struct cpu *c, unsigned bits)
{
    struct walk w;
    const struct mem_region *r;
    if (!x->known)
        x->known = reserve_memory(known_size(c));
    if (!x->known || !cpu_walk(c, c->reg[X86_SLOT_RIP], WALK_PEEK, &w) ||
        !(r = mem_find(c->mem, w.gpa)))
        return;
    u64 page = mem_page(r, w.gpa);
    u8 *k = &x->known[page >> 2];
    unsigned shift = (page & 3) * 2;
    *k |= (u8)((*k >> shift & 1 ? KNOWN : bits) << shift);
}

static void ask(struct cpu *c, bool whether)
{
    struct bt_cpu *bt = c->engine;
    if (whether && !c->emitted[BT_ARRIVE]) {
        c->emitted[BT_ARRIVE] = BT_ARRIVE_ASK | BT_ARRIVE_HERE;
        bt->direct.declined = 0;
    } else if (!whether && !bt->direct.always) {
        c->emitted[BT_ARRIVE] = 0;
        bt->direct.away = 0; /* nobody else would see that it is over */
        if (bt->direct.d)
            direct_scatter(bt->direct.d);
    }
}

bool bt_direct_knows(struct cpu *c, struct bt_cpu *bt, u64 page)
{
    struct bt_direct *x = &bt->direct;
    if (x->pause || !(x->known[page >> 2] >> (page & 3) * 2 & KNOWN))
        return false;
    ask(c, true);
    return true;
}

void bt_direct_free(struct bt_cpu *bt)
{
    direct_free(bt->direct.d);
    if (bt->direct.known)
        munmap(bt->direct.known, known_size(bt->cpu));
}

void bt_direct_sample(struct cpu *c, struct bt_cpu *bt)
{
    struct bt_direct *x = &bt->direct;
    if (x->off || x->always)
        return;
    if (c->cpl == 3 && !x->pause)
        note_page(x, c, MET);
    if (c->cpl == 3 && x->regret) /* it has been here ever since */
        x->regret->gain = GAIN_MOST;
    x->regret = NULL;
    if (c->cpl != 3 || x->user_epoch != c->user_epoch) {
        x->streak = c->cpl == 3;
        ask(c, false);
        x->user_epoch = c->user_epoch;
        return;
    }
    x->streak++;
    if (x->pause && x->streak < STREAK_SURE) {
        x->pause--;
        return;
    }
    x->pause = 0;
    if (x->streak >= STREAK)
        ask(c, true);
}

static void give_up(struct bt_direct *x, struct cpu *c)
{
    ask(c, false);
    x->streak = 0;
    x->account = 0;
    x->losses = 0;
    x->pause = 1u << min_u64(PAUSE_SHORTEST + x->pauses++, PAUSE_LONGEST);
    if (x->known) /* somebody among them is to blame */
        madvise(x->known, known_size(c), MADV_DONTNEED);
}

/* --- places --- */

/* Of RIP's place; NULL: there is none. */
static struct bt_guess *guess_of(struct bt_direct *x, struct cpu *c)
{
    struct walk w;
    if (!cpu_walk(c, c->reg[X86_SLOT_RIP], WALK_PEEK, &w))
        return NULL;
    u64 h = w.gpa * 0x9e3779b97f4a7c15ull;
    struct bt_guess *g = &x->guess[h >> 54];
    if (g->place != (u32)(h >> 22))
        *g = (struct bt_guess){.place = (u32)(h >> 22)};
    return g;
}

/* What is declined is tried again now and then. */
static bool declines(struct bt_direct *x, struct cpu *c, struct bt_guess *g)
{
    if (g && g->gain >= 0)
        return false;
    x->away = 0;
    x->regret = g;
    x->declines++;
    if (g)
        g->gain += GAIN_MOST / 256 - g->gain / 64;
    if (++x->declined > DECLINED_MOST)
        ask(c, false);
    return true;
}

/* --- stays --- */

/* Translated, the code would have taken more than twice as long. */
static void settle(struct bt_direct *x, struct cpu *c, const struct direct_stats *before,
                   struct bt_guess *g)
{
    const struct direct_stats *now = direct_stats(x->d);
    u64 inside = now->inside - before->inside, outside = now->outside - before->outside;
    s64 gain = (s64)(inside + inside / 2) - (s64)outside - RETURN_COST;
    s64 some = gain < -GAIN_MOST ? -GAIN_MOST : gain > GAIN_MOST ? GAIN_MOST : gain;
    x->declined = 0;
    x->away = 0;
    x->account += gain;
    if (g)
        g->gain += ((s32)some - g->gain) / 4;
    if (gain >= 0)
        x->losses = 0;
    else if (now->faults == before->faults) /* what was mapped is there for the next time */
        x->losses++;
    if (inside > LONG_STAY)
        note_page(x, c, KNOWN);
    if (x->account > CREDIT_MOST) {
        x->account = CREDIT_MOST;
        x->pauses = 0;
    }
    if ((x->account < -DEBT_MOST || x->losses > LOSSES_MOST) && !x->always)
        give_up(x, c);
}

/* Is there user code that has just been come to? */
static bool arrived(struct cpu *c, struct bt_direct *x)
{
    if (c->cpl != 3) {
        c->emitted[BT_ARRIVE] |= BT_ARRIVE_HERE;
        x->away = 0;
        return false;
    }
    bool here = c->emitted[BT_ARRIVE] & BT_ARRIVE_HERE;
    c->emitted[BT_ARRIVE] &= ~(u64)BT_ARRIVE_HERE;
    if (here)
        x->regret = NULL;
    return here || x->always;
}

/* Code in a page that must not run there is interpreted, if it leaves that soon. Where it was come
 * from is to blame if it does not. */
static void stay_away(struct bt_direct *x, struct cpu *c, struct bt_guess *g)
{
    if (!x->away)
        x->away_from = g;
    x->away = x->away ? x->away - 1 : AWAY_MOST;
    if (x->away)
        c->emitted[BT_ARRIVE] |= BT_ARRIVE_HERE;
    else if (x->away_from)
        x->away_from->gain = -GAIN_MOST / 4;
}

/* An instruction that is the engine's. */
static void step(struct cpu *c)
{
    c->code_stale = false;
    cpu_clear_rf(c);
    cpu_insn_step(c);
}

bool bt_direct_run(struct cpu *c, struct bt_cpu *bt, struct err *e)
{
    struct bt_direct *x = &bt->direct;
    if (!arrived(c, x))
        return false;
    if (!x->d && !x->off && !(x->d = direct_new(c, x->hosts, bt->set->no_filter)))
        x->off = true;
    if (x->off) {
        c->emitted[BT_ARRIVE] = 0;
        return false;
    }
    struct bt_guess *g = guess_of(x, c);
    if (!x->always && declines(x, c, g))
        return false;
    struct direct_stats before = *direct_stats(x->d);
    enum direct_end end = direct_run(x->d);
    switch (end) {
    case DIRECT_REFUSED:
        if (!x->always)
            give_up(x, c);
        return false;
    case DIRECT_AWAY:
        stay_away(x, c, g);
        return false;
    case DIRECT_BROKEN:
        x->off = true;
        ask(c, false);
        return false;
    case DIRECT_LOST:
        err_set(e, "the process that ran the guest's user code has been killed; more memory, or "
                   "--bt-direct off, may help");
        return true;
    default:
        settle(x, c, &before, g);
        if (end == DIRECT_BAD_CALL)
            cpu_throw_gp(c, 0);
        else if (end == DIRECT_FAULT && !cpu_event_pending(c)) /* no trap */
            step(c);
        if (end != DIRECT_SYSCALL && c->emitted[BT_ARRIVE])
            c->emitted[BT_ARRIVE] |= BT_ARRIVE_HERE;
        return end != DIRECT_SYSCALL || cpu_event_pending(c);
    }
}
