/*
 * test_diff.c - an engine against the bare CPU: each row of the instruction table with many
 * operands, then random sequences, then those that once differed.
 *
 *   test_diff [--mode 64|32] [--rows N] [--count N] [--seed N] [--row NAME] [--class NAME]...
 *             [--bad N] [--verbose] [--engine interp|bt]
 *
 * --rows N runs each row N times; --count N runs N sequences; by default both are short. Classes of
 * rows are int, string, branch, fault, x87, sse, vex, evex. After --bad N differences it ends.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "diff.h"
#include "known.h"
#include "rows.h"

struct options {
    u64 rows, count, seed;
    int mode; /* 0: both */
    const char *row;
    const struct engine_ops *engine;
    unsigned classes; /* bit per enum row_class */
    bool verbose;
    unsigned max_bad;
};

struct coverage {
    u64 runs, done, bad;
    const char *skip;
};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* --- each row --- */

static const char *why_not(struct diff *d, unsigned row)
{
    const struct x86_row *r = &x86_rows[row];
    if (row_skip(row))
        return row_skip(row);
    if (!guest_has(d->g, r->feature) ||
        (r->attr & (X86_AVX | X86_AND_AVX) && !guest_has(d->g, X86_F_AVX)) ||
        (r->attr & (X86_AVX512 | X86_AND_AVX512) && !guest_has(d->g, X86_F_AVX512F)))
        return "the host or the CPU model does not have it";
    return NULL;
}

static bool chosen(const struct options *o, unsigned row)
{
    if (o->row && strcasecmp(o->row, x86_op_name(x86_rows[row].op)) != 0)
        return false;
    return o->classes >> row_class(row) & 1;
}

static unsigned class_bit(const char *name)
{
    static const char *const names[] = {"int", "string", "branch", "fault",
                                        "x87", "sse",    "vex",    "evex"};
    for (unsigned k = 0; k < ARRAY_SIZE(names); k++)
        if (strcmp(name, names[k]) == 0)
            return 1u << k;
    return 0;
}

static void report(struct diff *d, const struct options *o)
{
    if (d->bad++ >= o->max_bad) {
        if (o->verbose)
            diff_print(d);
        return;
    }
    char what[sizeof d->what];
    memcpy(what, d->what, sizeof what);
    diff_shrink(d);
    if (!d->what[0])
        printf("# seen once, not again:\n%s", what);
    diff_print(d);
}

/* The engine is so broken that the rest would take hours. */
static bool hangs(const struct diff *d)
{
    return d->bad && d->cut_short > 50 + d->runs / 1000;
}

static void run_row(struct diff *d, const struct options *o, unsigned row, struct coverage *cov,
                    bool m64)
{
    for (u64 n = 0; n < o->rows && cov->bad < 2; n++) {
        gen_state(&d->gen, &d->t, m64);
        if (!gen_insn(&d->gen, &d->t, row, (unsigned)n)) {
            cov->skip = "no encoding in this mode";
            return;
        }
        gen_branches(&d->gen, &d->t);
        bool same = diff_run(d);
        cov->runs++;
        cov->done += d->bare.vec == END_DONE;
        if (!same) {
            cov->bad++;
            report(d, o);
        }
    }
}

static void list_rows(const struct coverage *cov, const struct options *o)
{
    unsigned run = 0, skipped = 0, never = 0;
    char name[64];
    for (unsigned row = 0; row < x86_row_count; row++) {
        const struct coverage *c = &cov[row];
        run += c->runs != 0;
        skipped += c->skip != NULL;
        never += c->runs && !c->done;
        if (c->skip && o->verbose)
            printf("# skipped %s: %s\n", row_name(row, name, sizeof name), c->skip);
        if (c->runs && !c->done && o->verbose)
            printf("# only faults: %s\n", row_name(row, name, sizeof name));
    }
    printf("# %u rows compared (%u of them by faults alone), %u skipped\n", run, never, skipped);
}

static bool test_rows(struct diff *d, const struct options *o, bool m64)
{
    struct coverage *cov = calloc(x86_row_count, sizeof *cov);
    u64 bad = d->bad;
    for (unsigned row = 0; row < x86_row_count; row++) {
        if (!chosen(o, row) || hangs(d))
            continue;
        cov[row].skip = why_not(d, row);
        if (cov[row].skip)
            continue;
        double t0 = now();
        char name[64];
        run_row(d, o, row, &cov[row], m64);
        if (now() - t0 > 1 && o->verbose)
            printf("# slow: %s %.1f s\n", row_name(row, name, sizeof name), now() - t0);
    }
    list_rows(cov, o);
    free(cov);
    return d->bad == bad && !hangs(d);
}

/* --- sequences --- */

struct mix {
    u16 *row[ROW_CLASSES];
    unsigned n[ROW_CLASSES];
};

static struct mix *make_mix(struct diff *d, const struct options *o)
{
    struct mix *m = calloc(1, sizeof *m);
    for (unsigned k = 0; k < ROW_CLASSES; k++)
        m->row[k] = calloc(x86_row_count, sizeof(u16));
    for (unsigned row = 0; row < x86_row_count; row++) {
        if (why_not(d, row))
            continue;
        if (!chosen(o, row) && (!o->row || row_class(row) != ROW_INT))
            continue;
        unsigned k = row_class(row);
        m->row[k][m->n[k]++] = (u16)row;
    }
    return m;
}

static void free_mix(struct mix *m)
{
    for (unsigned k = 0; k < ROW_CLASSES; k++)
        free(m->row[k]);
    free(m);
}

/* Of 64 instructions, how many of which class; a sequence takes one profile. */
static const u8 profiles[][ROW_CLASSES] = {
    {48, 6, 9, 1, 0, 0, 0, 0},    {48, 6, 9, 1, 0, 0, 0, 0},  {20, 0, 2, 0, 42, 0, 0, 0},
    {20, 0, 2, 0, 2, 40, 0, 0},   {20, 0, 2, 0, 0, 6, 36, 0}, {20, 0, 2, 0, 0, 2, 6, 34},
    {20, 4, 4, 1, 5, 10, 10, 10}, {8, 48, 8, 0, 0, 0, 0, 0},
};

static unsigned pick_row(struct diff *d, const struct mix *m, const u8 *profile)
{
    int die = (int)pick(&d->gen.rng, 64);
    for (unsigned k = 0; k < ROW_CLASSES; k++) {
        die -= profile[k];
        if (die < 0 && m->n[k])
            return m->row[k][pick(&d->gen.rng, m->n[k])];
    }
    return m->row[ROW_INT][pick(&d->gen.rng, m->n[ROW_INT])];
}

static void make_sequence(struct diff *d, const struct mix *m, bool m64)
{
    struct rng *r = &d->gen.rng;
    const u8 *profile = profiles[pick(r, ARRAY_SIZE(profiles))];
    gen_state(&d->gen, &d->t, m64);
    for (unsigned n = 1 + pick(r, 24); n; n--)
        gen_insn(&d->gen, &d->t, pick_row(d, m, profile), (unsigned)rnd(r));
    gen_branches(&d->gen, &d->t);
}

static bool test_sequences(struct diff *d, const struct options *o, bool m64)
{
    struct mix *m = make_mix(d, o);
    u64 bad = d->bad, runs = d->runs, done = d->done;
    double t0 = now();
    for (u64 n = 0; n < o->count; n++) {
        make_sequence(d, m, m64);
        if (!diff_run(d))
            report(d, o);
        if (d->bad >= o->max_bad + bad || hangs(d))
            break;
    }
    double dt = now() - t0;
    free_mix(m);
    printf("# %llu runs, %llu of them to the end, %.0f a second\n",
           (unsigned long long)(d->runs - runs), (unsigned long long)(d->done - done),
           (double)(d->runs - runs) / dt);
    return d->bad == bad && !hangs(d);
}

/* At places that guest.c does different things for. */
static bool test_known(struct diff *d, const struct options *o)
{
    u64 bad = d->bad;
    bool m64;
    for (unsigned n = 0; n < known_count(); n++) {
        const char *name = known_name(n, &m64);
        if (o->mode && (o->mode == 64) != m64)
            continue;
        for (unsigned at = 0; at < 8; at++) {
            known_make(d, n);
            d->gen.next_start = CODE + PAGE_SIZE + at;
            if (diff_run(d))
                continue;
            printf("# %s:\n", name);
            report(d, o);
            break;
        }
    }
    return d->bad == bad;
}

/* --- the program --- */

static const struct engine_ops *engine(const char *name)
{
    if (strcmp(name, "interp") == 0)
        return &engine_interp;
    return strcmp(name, "bt") == 0 ? &engine_bt : NULL;
}

static int parse(struct options *o, int argc, char **argv)
{
    static const struct option longs[] = {
        {"mode", required_argument, NULL, 'm'},   {"rows", required_argument, NULL, 'r'},
        {"count", required_argument, NULL, 'c'},  {"seed", required_argument, NULL, 's'},
        {"row", required_argument, NULL, 'w'},    {"verbose", no_argument, NULL, 'v'},
        {"bad", required_argument, NULL, 'b'},    {"class", required_argument, NULL, 'k'},
        {"engine", required_argument, NULL, 'e'}, {0}};
    int k;
    while ((k = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (k) {
        case 'm':
            o->mode = atoi(optarg);
            break;
        case 'r':
            o->rows = strtoull(optarg, NULL, 0);
            break;
        case 'c':
            o->count = strtoull(optarg, NULL, 0);
            break;
        case 's':
            o->seed = strtoull(optarg, NULL, 0);
            break;
        case 'w':
            o->row = optarg;
            break;
        case 'k':
            o->classes |= class_bit(optarg);
            break;
        case 'b':
            o->max_bad = (unsigned)atoi(optarg);
            break;
        case 'e':
            o->engine = engine(optarg);
            break;
        case 'v':
            o->verbose = true;
            break;
        default:
            return -1;
        }
    }
    if (!o->classes)
        o->classes = ~0u;
    return o->engine ? 0 : -1;
}

static unsigned announce(unsigned n, bool ok, const char *what, bool m64)
{
    printf("%s %u - %s, %s-bit\n", ok ? "ok" : "not ok", n, what, m64 ? "64" : "32");
    fflush(stdout);
    return !ok;
}

/* What a pointer of the largest, an index and a displacement reach below the address space's end.
 */
#define WILD (6 * GiB)

/* There the host puts its stack, now and then, and a sequence would find memory. */
static void move_stack(char **argv)
{
    static const char name[] = "POPF_DIFF_STARTS";
    const char *starts = getenv(name);
    char next[16];
    int n = starts ? atoi(starts) : 0;
    if ((u64)&next < (1ull << 47) - WILD || n >= 64)
        return;
    snprintf(next, sizeof next, "%d", n + 1);
    setenv(name, next, 1);
    execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
    setenv("POPF_BT_HOT", "2", 0); /* BT_ROUNDS in guest.c counts on it */
    struct options o = {
        .rows = 48, .count = 20000, .seed = 1, .max_bad = 20, .engine = &engine_interp};
    struct err e;
    static struct diff d;
    if (parse(&o, argc, argv)) {
        fprintf(stderr, "usage: test_diff [--mode 64|32] [--rows N] [--count N] [--seed N] "
                        "[--row NAME] [--class NAME]... [--bad N] [--verbose] "
                        "[--engine interp|bt]\n");
        return 2;
    }
#ifdef __SANITIZE_ADDRESS__
    printf("1..0 # SKIP the address sanitizer maps memory that sequences expect to be absent\n");
    return 0;
#endif
    move_stack(argv);
    if (diff_init(&d, o.engine, o.seed, &e)) {
        printf("1..0 # SKIP %s\n", e.msg);
        return 0;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    unsigned n = 0, failed = 0;
    for (int m64 = 1; m64 >= 0; m64--) {
        if (o.mode && (o.mode == 64) != m64)
            continue;
        if (o.rows)
            failed += announce(++n, test_rows(&d, &o, m64), "every row", m64);
        if (o.count)
            failed += announce(++n, test_sequences(&d, &o, m64), "random sequences", m64);
    }
    bool known = test_known(&d, &o);
    printf("%s %u - sequences that once differed\n", known ? "ok" : "not ok", ++n);
    printf("1..%u\n", n);
    diff_free(&d);
    return failed || !known;
}
