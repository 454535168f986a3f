/*
 * triple.c - ways to a shutdown (SDM vol. 3A, 6.15, interrupt 8); "case=N" on the command line
 * chooses one. Reaching the end is the failure.
 */
#include "guest.h"

static struct {
    u16 limit;
    word base;
} __attribute__((packed)) no_idt = {0, 0};

int main(void)
{
    static const char *const name[] = {"no IDT", "absent gates", "a stack that is not there",
                                       "#DF's gate leads nowhere"};
    u32 n = cmdline_number("case", 0);
    print("shutdown by: %s\n", n < ARRAY_SIZE(name) ? name[n] : "?");
    udelay(20000); /* the line is on its way out */
    switch (n) {
    case 0:
        __asm__ volatile("lidt %0; ud2" : : "m"(no_idt));
        break;
    case 1:
        memset(idt, 0, sizeof(idt));
        __asm__ volatile("int3");
        break;
    case 2:
        __asm__ volatile("movabs $0x900000000000, %%rsp; push %%rax" : : : "memory");
        break;
    default:
        set_gate(DF, 0x3f8, 0, GATE_INT, 0, 0);
        set_gate(DE, 0x3f8, 0, GATE_INT, 0, 0);
        __asm__ volatile("xor %%ecx, %%ecx; div %%ecx" : : : "eax", "ecx", "edx");
    }
    ok(false, "still here");
    return 0;
}
