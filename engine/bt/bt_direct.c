/*
 * bt_direct.c - when the guest's user code is executed directly (engine/direct), and when
 * translated.
 *
 * Going there and back costs as much as some ten thousand instructions, so it pays for code that
 * computes for long without the kernel. The guest's own timer interrupts are the samples: an
 * address space that is found in user code by one after the other is let go there. What pages such
 * code is in is remembered, so that the next process that runs it goes there at once. An account
 * of what it gains and costs is kept, and when it is overdrawn there is a pause.
 *
 * While `want` is set no jump-table entry of user code matches (BT_SALT), so that whatever returns
 * to it comes by bt_direct_run().
 */
#include <sys/mman.h>

#include "cpu/cpu_paging.h"
#include "engine/bt/bt.h"
#include "engine/direct/direct.h"

#define STREAK_SURE    5    /* ... that end a pause: it may have been for others */
#define STREAK         2    /* samples in a row */
#define AWAY_MOST      2000 /* between samples: each costs as much as a hundred instructions */
#define PAUSE_SHORTEST 2    /* logarithms, in samples */
#define PAUSE_LONGEST  8

/* Nanoseconds of processor time. */
#define RETURN_COST 8000    /* of leaving, for caches and what follows */
#define CREDIT_MOST 4000000 /* what may be lost before */
#define DEBT_MOST   4000000 /* there is a pause */
#define LOSSES_MOST 12      /* stays in a row */
#define LONG_STAY   700000  /* makes a page of code known */

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
    if (!x->known) {
        void *p = mmap(NULL, known_size(c), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        x->known = p == MAP_FAILED ? NULL : p;
    }
    if (!x->known || !cpu_walk(c, c->reg[X86_SLOT_RIP], WALK_PEEK, &w) ||
        !(r = mem_find(c->mem, w.gpa)))
        return;
    u64 page = mem_page(r, w.gpa);
    u8 *k = &x->known[page >> 2];
    unsigned shift = (page & 3) * 2;
    *k |= (u8)((*k >> shift & 1 ? KNOWN : bits) << shift);
}

bool bt_direct_knows(struct bt_direct *x, u64 page)
{
    if (x->pause || !(x->known[page >> 2] >> (page & 3) * 2 & KNOWN))
        return false;
    x->want = true;
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
    if (x->off)
        return;
    if (x->always) {
        x->want = true;
        return;
    }
    if (c->cpl == 3 && !x->pause)
        note_page(x, c, MET);
    if (c->cpl != 3 || x->user_epoch != c->user_epoch) {
        x->streak = c->cpl == 3;
        x->want = false;
        x->user_epoch = c->user_epoch;
        return;
    }
    x->away = 0;
    x->streak++;
    if (x->pause && x->streak < STREAK_SURE) {
        x->pause--;
        return;
    }
    x->pause = 0;
    x->want |= x->streak >= STREAK;
}

static void give_up(struct bt_direct *x, struct cpu *c)
{
    x->want = false;
    x->streak = 0;
    x->account = 0;
    x->losses = 0;
    x->pause = 1u << min_u64(PAUSE_SHORTEST + x->pauses++, PAUSE_LONGEST);
    if (x->known) /* somebody among them is to blame */
        madvise(x->known, known_size(c), MADV_DONTNEED);
}

/* Translated, the code would have taken more than twice as long. */
static void settle(struct bt_direct *x, struct cpu *c, const struct direct_stats *before)
{
    const struct direct_stats *now = direct_stats(x->d);
    u64 inside = now->inside - before->inside, outside = now->outside - before->outside;
    s64 gain = (s64)(inside + inside / 2) - (s64)outside - RETURN_COST;
    x->account += gain;
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

bool bt_direct_run(struct cpu *c, struct bt_cpu *bt, struct err *e)
{
    struct bt_direct *x = &bt->direct;
    if (!x->d && !(x->d = direct_new(c)))
        x->off = true;
    if (x->off) {
        x->want = false;
        return false;
    }
    struct direct_stats before = *direct_stats(x->d);
    enum direct_end end = direct_run(x->d);
    switch (end) {
    case DIRECT_REFUSED:
        if (!x->always)
            give_up(x, c);
        return false;
    case DIRECT_AWAY:
        if (++x->away > AWAY_MOST && !x->always)
            give_up(x, c);
        return false;
    case DIRECT_BROKEN:
        x->off = true;
        x->want = false;
        return false;
    case DIRECT_LOST:
        err_set(e, "the process that ran the guest's user code has been killed; more memory, or "
                   "--bt-direct off, may help");
        return true;
    default:
        settle(x, c, &before);
        if (end == DIRECT_BAD_CALL)
            cpu_throw_gp(c, 0);
        return end == DIRECT_KICKED || cpu_event_pending(c); /* a trap */
    }
}
