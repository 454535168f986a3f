/* diff.h - runs a case on both sides, compares, and shrinks what differs. */
#ifndef POPF_DIFF_DIFF_H
#define POPF_DIFF_DIFF_H

#include "gen.h"
#include "guest.h"

struct diff {
    struct guest *g;
    bool keeps_flags; /* the engine keeps flags that nothing reads */
    struct gen gen;
    struct test_case t;
    struct outcome bare, guest;
    u8 clean[FPU_MAX] __attribute__((aligned(64))); /* for cases that find FP code by stray jumps */
    u64 runs, done, bad;
    u64 cut_short;   /* ended on the bare CPU, but not under the engine in the time it has */
    char what[4096]; /* the last difference */
};

/* `ops`: engine_interp or engine_bt. */
int diff_init(struct diff *d, const struct engine_ops *ops, u64 seed, struct err *e);
void diff_free(struct diff *d);

/* Places and runs d->t on both sides: true if all is the same; else d->what says what is not. */
bool diff_run(struct diff *d);

/* After a difference: takes instructions away as long as something differs. */
void diff_shrink(struct diff *d);

/* The case and the difference, as comments of TAP. */
void diff_print(const struct diff *d);

#endif
