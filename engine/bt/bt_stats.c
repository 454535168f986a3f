/*
 * bt_stats.c - what --stats prints of the translator.
 */
#include <stdarg.h>
#include <stdio.h>

#include "engine/bt/bt_keep.h"
#include "engine/direct/direct.h"

struct out {
    const struct bt_cpu *bt;
    void (*line)(void *arg, const char *text);
    void *arg;
};

static void PRINTF(2, 3) say(const struct out *o, const char *fmt, ...)
{
    char text[320];
    va_list ap;
    int n = snprintf(text, sizeof(text), "cpu%u: ", o->bt->cpu->id);
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, ap);
    va_end(ap);
    o->line(o->arg, text);
}

typedef unsigned long long llu;

/* In hundredths, for "%llu.%02llu": no floating point in this folder. */
#define PERCENT(part, of) (llu)(hundredths(part, of) / 100), (llu)(hundredths(part, of) % 100)
static u64 hundredths(u64 part, u64 of)
{
    return of ? (u64)((unsigned __int128)part * 10000 / of) : 0;
}

static void translations(const struct out *o)
{
    const struct bt_cpu *bt = o->bt;
    say(o,
        "%llu blocks in %llu regions translated to %llu KiB; entered %llu times, jump "
        "tables forgotten %llu times",
        (llu)bt->translated, (llu)bt->regions, (llu)bt->bytes >> 10, (llu)bt->entered,
        (llu)bt->forgotten);
    if (bt->keep)
        say(o,
            "%llu regions of %llu blocks kept from other runs; %llu regions to be kept, "
            "%llu not, %llu refused",
            (llu)bt->keep->installed, (llu)bt->keep->blocks, (llu)bt->keep->own.nrecords,
            (llu)bt->keep->unkept, (llu)bt->keep->refused);
}

/* Why emitted code was left. */
static void exits(const struct out *o)
{
    const struct bt_counts *n = &o->bt->count;
    say(o,
        "left for blocks not joined %llu, RIP not in the jump table %llu, events %llu, after "
        "bodies %llu, exceptions and others %llu",
        (llu)n->unjoined, (llu)n->unknown, (llu)n->events, (llu)n->bodies,
        (llu)(o->bt->entered - n->unjoined - n->unknown - n->events - n->bodies));
}

/* How often blocks led to others without the monitor: only with settings.count. */
static void rates(const struct out *o)
{
    const struct bt_cpu *bt = o->bt;
    const struct bt_counts *n = &bt->count;
    u64 blocks = bt->cpu->emitted[BT_BLOCKS], lookups = bt->cpu->emitted[BT_LOOKUPS];
    if (!bt->set->count)
        return;
    u64 chained = blocks - min_u64(blocks, bt->entered + lookups);
    say(o, "%llu blocks run: %llu.%02llu%% by chaining; %llu look-ups of RIP, %llu.%02llu%% hits",
        (llu)blocks, PERCENT(chained, blocks), (llu)lookups,
        PERCENT(lookups - min_u64(lookups, n->unknown), lookups));
    say(o, "%llu.%02llu%% of the time in translated code and bodies that it calls",
        PERCENT(n->inside, n->running));
}

static void misses(const struct out *o)
{
    const struct bt_cpu *bt = o->bt;
    const struct shadow *s = bt->cpu->shadow_table;
    say(o,
        "shadow table missed %llu times: %llu across pages, %llu no RAM or a page with code; "
        "filled %llu, flushed %llu; %llu host faults; %llu bodies called",
        (llu)bt->misses, (llu)bt->count.crossing, (llu)bt->count.no_entry, (llu)s->fills,
        (llu)s->flushes, (llu)bt->faults, (llu)bt->bodies);
}

static void direct(const struct out *o)
{
    const struct direct *d = o->bt->direct.d;
    if (!d)
        return;
    const struct direct_stats *x = direct_stats(d);
    say(o,
        "user code executed directly %llu times (%llu processes): left for events %llu, system "
        "calls %llu, faults %llu; declined %llu, pages that must not %llu; %llu pages mapped in "
        "%llu faults, all dropped %llu "
        "times; %llu ms inside, %llu ms on the way",
        (llu)x->runs, (llu)x->spaces, (llu)x->ended[DIRECT_KICKED], (llu)x->ended[DIRECT_SYSCALL],
        (llu)x->ended[DIRECT_FAULT], (llu)o->bt->direct.declines, (llu)x->ended[DIRECT_AWAY],
        (llu)x->mapped, (llu)x->faults, (llu)x->resets, (llu)x->inside / 1000000,
        (llu)x->outside / 1000000);
}

/* The instructions whose bodies were called most. */
static void bodies(const struct out *o)
{
    u64 sum[X86_OP_COUNT] = {0};
    for (unsigned n = 0; n < x86_row_count; n++)
        sum[x86_rows[n].op] += o->bt->body_count[n];
    char text[300] = "";
    for (unsigned k = 0, len = 0; k < 12; k++) {
        unsigned most = 0;
        for (unsigned n = 0; n < X86_OP_COUNT; n++)
            most = sum[n] > sum[most] ? n : most;
        if (!sum[most])
            break;
        len += (unsigned)snprintf(text + len, sizeof(text) - len, " %s %llu",
                                  x86_op_name((enum x86_op)most), (llu)sum[most]);
        sum[most] = 0;
    }
    say(o, "bodies:%s", text);
}

void bt_stats(const struct bt_cpu *bt, void (*line)(void *arg, const char *text), void *arg)
{
    struct out o = {bt, line, arg};
    translations(&o);
    exits(&o);
    rates(&o);
    misses(&o);
    bodies(&o);
    direct(&o);
}
