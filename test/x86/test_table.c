/*
 * test_table.c - x86_table.def by itself: columns agree with one another, every row can be reached,
 * every mnemonic has a row.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "x86/x86_table.h"

#define check(row, cond)                                                                           \
    do {                                                                                           \
        if (!(cond))                                                                               \
            fail_msg("row %u (%s): %s", (row), x86_op_name(x86_rows[row].op), #cond);              \
    } while (0)

static bool is_vector(unsigned kind)
{
    return kind == X86_O_V || kind == X86_O_W || kind == X86_O_U || kind == X86_O_H ||
           kind == X86_O_L || kind == X86_O_VSIB;
}

static void check_operands(unsigned n)
{
    const struct x86_row *r = &x86_rows[n];
    unsigned count = 0, in_memory = 0;

    while (count < X86_OPERANDS_MAX && r->operand[count])
        count++;
    for (unsigned k = count; k < X86_OPERANDS_MAX; k++)
        check(n, r->operand[k] == X86_O_NONE && r->width[k] == 0);
    check(n, r->written >> count == 0);
    for (unsigned k = 0; k < count; k++) {
        in_memory += x86_encs[n].mem == k;
        if (is_vector(r->operand[k]))
            check(n, r->attr & X86_HOST);
        if (r->operand[k] == X86_O_I || r->operand[k] == X86_O_J)
            check(n, !(r->written >> k & 1));
    }
    check(n, in_memory == (x86_encs[n].mem < 4));
}

static void check_attributes(unsigned n)
{
    const struct x86_row *r = &x86_rows[n];
    const struct x86_enc *e = &x86_encs[n];
    u32 host = X86_X87 | X86_MMX | X86_SSE | X86_AVX | X86_AVX512;
    bool has_mem = e->mem < 4;

    check(n, r->op < X86_OP_COUNT && r->feature < X86_F_COUNT);
    check(n, !(r->attr & X86_HOST) || (r->attr & host));
    check(n, has_mem || !(r->attr & (X86_MEM_READ | X86_MEM_WRITE | X86_LOCKABLE | X86_ALIGNED)));
    check(n, !(r->attr & X86_LOCKABLE) || (r->attr & X86_MEM_WRITE));
    if (has_mem)
        check(n, !!(r->attr & X86_MEM_WRITE) == (r->written >> e->mem & 1));
    check(n, !(r->attr & X86_FORCE64) || (r->attr & X86_DEF64));
    check(n, (r->attr & (X86_NO64 | X86_ONLY64)) != (X86_NO64 | X86_ONLY64));
    check(n, !(r->attr & X86_NEEDS_VL) || (r->attr & X86_AVX512));
    check(n, (r->flags_written & r->flags_undef) == 0);
    check(n, ((r->flags_read | r->flags_written | r->flags_undef) &
              ~(u32)(FLAGS_ARITH | FLAG_DF)) == 0);
    check(n, !(r->attr & X86_FLAGS_MAYBE) || (r->flags_written | r->flags_undef));
}

static void check_encoding(unsigned n)
{
    const struct x86_enc *e = &x86_encs[n];
    bool evex = e->space > SPACE_EVEX, vex = e->space > SPACE_VEX;

    check(n, e->space < SPACE_COUNT);
    check(n, (e->value & ~e->mask) == 0);
    check(n, e->modrm || (e->mask & (0xff | KEY_REG)) == 0);
    check(n, evex || e->evex == 0);
    check(n, vex || !(e->uses & USES_VVVV));
    check(n, !(e->uses & USES_VVVV) || vex);
    check(n, !vex || (e->mask & 3u << KEY_PFX) == 3u << KEY_PFX);
    check(n, !e->vsib || (e->mask & KEY_REG));
    check(n, !(x86_rows[n].attr & (X86_AVX | X86_AVX512)) || vex);
    check(n, !evex || (x86_rows[n].attr & X86_AVX512));
}

static void test_columns(void **state)
{
    for (unsigned n = 0; n < x86_row_count; n++) {
        check_operands(n);
        check_attributes(n);
        check_encoding(n);
    }
}

static bool same_opcode(const struct x86_enc *a, const struct x86_enc *b)
{
    return a->space == b->space && a->opcode < b->opcode + b->span &&
           b->opcode < a->opcode + a->span;
}

/* Keys that both accept exist. */
static bool overlap(const struct x86_enc *a, const struct x86_enc *b)
{
    u32 common = a->mask & b->mask;

    return (a->value & common) == (b->value & common);
}

/* Rows of one opcode exclude each other, or the first is the more particular one; and they agree
 * on whether a ModRM byte follows, which is asked before any is chosen. */
static void test_overlap(void **state)
{
    for (unsigned i = 0; i < x86_row_count; i++) {
        for (unsigned j = i + 1; j < x86_row_count; j++) {
            const struct x86_enc *a = &x86_encs[i], *b = &x86_encs[j];

            if (!same_opcode(a, b))
                continue;
            check(j, a->modrm == b->modrm);
            /* F3 makes PAUSE whatever REX.B (so do processors) */
            if (overlap(a, b) && x86_rows[i].op != X86_PAUSE)
                check(j, (a->mask & b->mask) == b->mask && a->mask != b->mask);
        }
    }
}

static void test_every_op_has_a_row(void **state)
{
    static u8 seen[X86_OP_COUNT];

    memset(seen, 0, sizeof(seen));
    for (unsigned n = 0; n < x86_row_count; n++)
        seen[x86_rows[n].op] = 1;
    for (unsigned op = 0; op < X86_OP_COUNT; op++)
        if (!seen[op])
            fail_msg("%s has no row", x86_op_name(op));
}

/* The integer ops stand first. */
static void test_order(void **state)
{
    u16 first_host = X86_OP_COUNT;

    for (unsigned n = 0; n < x86_row_count; n++)
        if ((x86_rows[n].attr & X86_HOST) && x86_rows[n].op < first_host)
            first_host = x86_rows[n].op;
    for (unsigned n = 0; n < x86_row_count; n++)
        check(n, !!(x86_rows[n].attr & X86_HOST) == (x86_rows[n].op >= first_host));
}

static void test_names(void **state)
{
    assert_string_equal(x86_op_name(X86_ADD), "ADD");
    assert_string_equal(x86_op_name(X86_OP_COUNT), "?");
    assert_int_equal(X86_JNLE - X86_JO, 15);
    assert_int_equal(X86_SETNLE - X86_SETO, 15);
    assert_int_equal(X86_CMOVNLE - X86_CMOVO, 15);
    assert_int_equal(X86_CMP - X86_ADD, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns),
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_every_op_has_a_row),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_names),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
