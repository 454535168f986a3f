/*
 * x86_genindex.c - run by the build: prints the decoder's index of x86_table.def as C.
 * Per opcode of each space: which candidates, in table order, and whether a ModRM byte follows.
 */
#include <stdio.h>

#include "x86/x86_table.h"

static bool covers(const struct x86_enc *e, unsigned space, unsigned opcode)
{
    return e->space == space && opcode >= e->opcode && opcode < e->opcode + e->span;
}

/* XCHG's span starts at NOP's opcode, so several rows may cover one opcode in different ways. */
static unsigned print_candidates(unsigned space, unsigned opcode)
{
    unsigned n = 0;

    for (unsigned row = 0; row < x86_row_count; row++) {
        const struct x86_enc *e = &x86_encs[row];

        if (!covers(e, space, opcode))
            continue;
        printf("    {0x%x, 0x%x, %u},\n", e->mask, e->value, row);
        n++;
    }
    return n;
}

static unsigned has_modrm(unsigned space, unsigned opcode)
{
    for (unsigned row = 0; row < x86_row_count; row++)
        if (covers(&x86_encs[row], space, opcode))
            return x86_encs[row].modrm;
    return 0;
}

int main(void)
{
    static struct x86_slot slots[SPACE_COUNT * 256];
    unsigned first = 0;

    printf("static const struct x86_candidate candidates[] = {\n");
    for (unsigned i = 0; i < SPACE_COUNT * 256; i++) {
        unsigned n = print_candidates(i / 256, i % 256);

        slots[i] = (struct x86_slot){first, n, has_modrm(i / 256, i % 256)};
        first += n;
    }
    printf("};\n\nstatic const struct x86_slot slots[] = {\n");
    for (unsigned i = 0; i < SPACE_COUNT * 256; i++)
        printf("    {%u, %u, %u},\n", slots[i].first, slots[i].count, slots[i].modrm);
    printf("};\n");
    return 0;
}
