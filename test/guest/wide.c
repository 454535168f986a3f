/*
 * wide.c - the guest of test_working_set.c: more code in use than the translator keeps at first.
 * ROUNDS times it calls each of FUNCTIONS functions, whose instructions add up to a known sum.
 */
#include "guest.h"

#define FUNCTIONS 16000
#define ADDS      20
#define ROUNDS    40
#define SIZE      64 /* bytes for each */
#define CODE      ((u8 *)0x400000)

static void make(u8 *at)
{
    for (unsigned n = 0; n < ADDS; n++) { /* ADD EAX, 1 */
        *at++ = 0x83;
        *at++ = 0xc0;
        *at++ = 1;
    }
    *at = 0xc3;
}

static u32 call(const u8 *code, u32 sum)
{
    __asm__ volatile("call *%1" : "+a"(sum) : "r"(code) : "cc", "memory");
    return sum;
}

int main(void)
{
    for (unsigned n = 0; n < FUNCTIONS; n++)
        make(CODE + n * SIZE);
    u32 sum = 0;
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned n = 0; n < FUNCTIONS; n++)
            sum = call(CODE + n * SIZE, sum);
    ok(sum == FUNCTIONS * ADDS * ROUNDS, "every function is called");
    return 0;
}
