/*
 * loop.c - the guest of test_direct.c: user code that counts until the host stops it. It and the
 * host talk through struct shared at SHARED. "calls=1": with a call of the kernel in each round.
 */
#include "direct.h"

/* ORDER LOOP: test_direct.c */
struct shared {
    u64 count;
    u32 stop; /* written by the host */
};
#define SHARED ((volatile struct shared *)0x9000)

SNIP(count, "", "1: incq (%rbx); cmpl $0, 8(%rbx); je 1b");
SNIP(count_calls, "", "1: incq (%rbx); int $0x80; cmpl $0, 8(%rbx); je 1b");

static void on_call(struct frame *f)
{
}

int main(void)
{
    start_user();
    handler[0x80] = on_call;
    const struct snip *s = cmdline_number("calls", 0) ? &count_calls : &count;
    map(DATA, (void *)SHARED, P | W | U | NX);
    go(s, DATA);
    ok(c.vec == VEC_DONE && SHARED->count, "counted until it was stopped: vector %lu", c.vec);
    return 0;
}
