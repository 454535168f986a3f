/*
 * bt_direct.c - when the guest's user code is executed directly (engine/direct), and when
 * translated.
 *
 * Going there and back costs as much as some ten thousand instructions, so it pays for code that
 * computes for long without the kernel. The guest's own timer interrupts are the samples: an
 * address space that is found in user code by one after the other is let go there, and is brought
 * back when it turns out not to stay.
 *
 * While `want` is set no jump-table entry of user code matches (BT_SALT), so that whatever returns
 * to it comes by bt_direct_run().
 */
#include "engine/bt/bt.h"
#include "engine/direct/direct.h"

#define STREAK        2       /* samples in a row */
#define WORTH_TICKS   150000u /* of the TSC: a stay that paid */
#define AWAY_MOST     2000    /* between samples: each costs as much as a hundred instructions */
#define FAILURES      4       /* stays in a row that did not, until there is a pause */
#define PAUSE_LONGEST 8       /* its logarithm, in samples */

void bt_direct_sample(struct cpu *c, struct bt_cpu *bt)
{
    struct bt_direct *x = &bt->direct;
    if (x->off)
        return;
    if (x->always) {
        x->want = true;
        return;
    }
    if (c->cpl != 3 || x->user_epoch != c->user_epoch) {
        x->streak = c->cpl == 3;
        x->want = false;
        x->user_epoch = c->user_epoch;
        return;
    }
    x->away = 0;
    if (x->pause) {
        x->pause--;
        return;
    }
    x->streak++;
    x->want |= x->streak >= STREAK;
}

static void give_up(struct bt_direct *x)
{
    unsigned more = x->failures > FAILURES ? x->failures - FAILURES : 0;
    x->want = false;
    x->streak = 0;
    x->pause = 1u << min_u64(more, PAUSE_LONGEST);
}

static void judge(struct bt_direct *x, enum direct_end end, u64 ticks)
{
    if (ticks >= WORTH_TICKS) {
        x->failures = 0;
        return;
    }
    if (end == DIRECT_KICKED || x->always)
        return;
    if (++x->failures >= FAILURES)
        give_up(x);
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
    u64 began = __builtin_ia32_rdtsc();
    enum direct_end end = direct_run(x->d);
    switch (end) {
    case DIRECT_REFUSED:
        if (!x->always) {
            x->failures++;
            give_up(x);
        }
        return false;
    case DIRECT_AWAY:
        if (++x->away > AWAY_MOST && !x->always)
            give_up(x);
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
        judge(x, end, __builtin_ia32_rdtsc() - began);
        return end == DIRECT_KICKED;
    }
}
