/*
 * test_direct.c - which instructions direct_scan() finds in a page, and which it lets run.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "cpu/cpu_cpuid.h"
#include "engine/direct/direct_priv.h"

struct rig {
    struct mem m;
    struct cpu_model *model;
    struct cpu *c;
    struct scan_page page;
};

static const struct cpu_world world; /* nothing is run */

static int setup(void **state)
{
    static struct rig r;
    struct err e = {{0}};
    struct cpu_model_config cfg = {.tsc_hz = 2000000000, .apic_bus_hz = 1000000000, .ncpus = 1};
    assert_int_equal(mem_init(&r.m, &e), 0);
    r.model = cpu_model_new(&cfg, &e);
    assert_non_null(r.model);
    r.c = cpu_new(0, &r.m, r.model, &world, NULL, NULL, &e);
    assert_non_null(r.c);
    *state = &r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    cpu_free(r->c);
    cpu_model_free(r->model);
    mem_free(&r->m);
    return 0;
}

#define ALL_RULES                                                                                  \
    (struct scan_rules)                                                                            \
    {                                                                                              \
        .mode64 = true, .fsgsbase = true, .avx = true, .xstate = true                              \
    }

/* A page of NOPs, entered in its middle, with this at `at`; negative: before the page. */
static struct verdict scan(struct rig *r, struct scan_rules rules, int at, const u8 *code, size_t n)
{
    struct verdict v = {0};
    memset(&r->page, 0x90, sizeof(r->page));
    r->page.has_before = true;
    memcpy(r->page.code + SCAN_BEFORE + at, code, n);
    direct_scan(r->c, &r->page, &rules, PAGE_SIZE / 2, &v);
    return v;
}

/* Found at offset 100, and at the page's first and last byte; or not at all. */
static void check(struct rig *r, const char *name, struct scan_rules rules, bool found,
                  const u8 *code, size_t n)
{
    static const int at[] = {100, 0, PAGE_SIZE - 1};
    for (unsigned k = 0; k < ARRAY_SIZE(at); k++) {
        struct verdict v = scan(r, rules, at[k], code, n);
        if (v.n != found || (found && v.at[0] != at[k]))
            fail_msg("%s at %d: %u found, the first at %d", name, at[k], v.n, v.n ? v.at[0] : -1);
        if (v.crosses != (at[k] == PAGE_SIZE - 1 && n > 1))
            fail_msg("%s at %d: crosses %d", name, at[k], v.crosses);
    }
}

#define CODE(...) (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__})

static void test_clean(void **state)
{
    struct scan_rules all = ALL_RULES;
    check(*state, "MOV imm32 that has MOV from DS", all, false, CODE(0xb8, 0x8c, 0xd8, 0x8c, 0xd8));
    check(*state, "MOVABS that has SLDT", all, false,
          CODE(0x48, 0xb8, 0x0f, 0, 0xc0, 0x0f, 0, 0xc0, 0x9d, 0x9d));
    check(*state, "LEA whose displacement has POPF", all, false,
          CODE(0x8d, 0x80, 0x9d, 0x9d, 0x9d, 0));
    check(*state, "PUSHF", all, false, CODE(0x9c));
    check(*state, "SYSCALL", all, false, CODE(0x0f, 0x05));
    check(*state, "RDTSC", all, false, CODE(0x0f, 0x31));
    check(*state, "INT3", all, false, CODE(0xcc));
    check(*state, "INT 21h", all, false, CODE(0xcd, 0x21));
    check(*state, "HLT", all, false, CODE(0xf4));
    check(*state, "MOV from CR0", all, false, CODE(0x0f, 0x20, 0xc0));
}

static const struct {
    const char *name;
    u8 len, code[6];
} sensitive[] = {
    {"POPF", 1, {0x9d}},
    {"SLDT", 3, {0x0f, 0, 0xc0}},
    {"STR", 3, {0x0f, 0, 0xc8}},
    {"VERR", 3, {0x0f, 0, 0xe0}},
    {"VERW", 3, {0x0f, 0, 0xe8}},
    {"SGDT", 3, {0x0f, 1, 0x03}},
    {"SIDT", 3, {0x0f, 1, 0x0b}},
    {"SMSW", 3, {0x0f, 1, 0xe0}},
    {"LAR", 3, {0x0f, 2, 0xc1}},
    {"LSL", 3, {0x0f, 3, 0xc1}},
    {"MOV from DS", 2, {0x8c, 0xd8}},
    {"MOV to ES", 2, {0x8e, 0xc0}},
    {"PUSH FS", 2, {0x0f, 0xa0}},
    {"POP GS", 2, {0x0f, 0xa9}},
    {"LSS", 3, {0x0f, 0xb2, 0x03}},
    {"far JMP", 2, {0xff, 0x2b}},
    {"far CALL", 2, {0xff, 0x1b}},
    {"RETF", 1, {0xcb}},
    {"IRET", 2, {0x48, 0xcf}},
    {"INT 3", 2, {0xcd, 3}},
    {"INT 4", 2, {0xcd, 4}},
    {"INT 80h", 2, {0xcd, 0x80}},
    {"SYSENTER", 2, {0x0f, 0x34}},
    {"RDPMC", 2, {0x0f, 0x33}},
    {"RDPID", 4, {0xf3, 0x0f, 0xc7, 0xf8}},
    {"CPUID", 2, {0x0f, 0xa2}},
    {"VMCALL", 3, {0x0f, 1, 0xc1}},
    {"VMMCALL", 3, {0x0f, 1, 0xd9}},
    {"XBEGIN", 6, {0xc7, 0xf8, 0, 0, 0, 0}},
    {"SLDT with prefixes", 6, {0x66, 0x2e, 0x49, 0x0f, 0, 0xc0}},
};

static void test_sensitive(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(sensitive); n++)
        check(*state, sensitive[n].name, ALL_RULES, true, sensitive[n].code, sensitive[n].len);
}

static void test_rules(void **state)
{
    struct rig *r = *state;
    struct scan_rules no_fs = ALL_RULES, no_avx = ALL_RULES, no_x = ALL_RULES;
    no_fs.fsgsbase = no_avx.avx = no_x.xstate = false;
    if (cpu_has(r->c, X86_F_FSGSBASE))
        check(r, "WRFSBASE", ALL_RULES, false, CODE(0xf3, 0x0f, 0xae, 0xd0));
    check(r, "WRFSBASE without CR4.FSGSBASE", no_fs, true, CODE(0xf3, 0x0f, 0xae, 0xd0));
    if (cpu_has(r->c, X86_F_XSAVE)) {
        check(r, "XGETBV", ALL_RULES, false, CODE(0x0f, 1, 0xd0));
        check(r, "XSAVE", ALL_RULES, false, CODE(0x0f, 0xae, 0x23));
    }
    check(r, "XGETBV that shows the host's", no_x, true, CODE(0x0f, 1, 0xd0));
    check(r, "XSAVE as the host's", no_x, true, CODE(0x0f, 0xae, 0x23));
    if (cpu_has(r->c, X86_F_AVX))
        check(r, "VADDPS", ALL_RULES, false, CODE(0xc5, 0xfc, 0x58, 0xc1));
    check(r, "VADDPS without AVX", no_avx, true, CODE(0xc5, 0xfc, 0x58, 0xc1));
    check(r, "ADDPS without AVX", no_avx, false, CODE(0x0f, 0x58, 0xc1));
}

static void test_32bit(void **state)
{
    struct scan_rules rules = ALL_RULES;
    rules.mode64 = false;
    check(*state, "SYSCALL", rules, true, CODE(0x0f, 0x05));
    check(*state, "INT 80h", rules, false, CODE(0xcd, 0x80));
    check(*state, "PUSH ES", rules, true, CODE(0x06));
    check(*state, "POP DS", rules, true, CODE(0x1f));
    check(*state, "LES", rules, true, CODE(0xc4, 0x03));
    check(*state, "ARPL", rules, true, CODE(0x63, 0xc0));
    check(*state, "INTO", rules, true, CODE(0xce));
    check(*state, "far CALL", rules, true, CODE(0x9a, 0, 0, 0, 0, 0x33));
    check(*state, "INC", rules, false, CODE(0x40));
    check(*state, "MOVSXD of 64-bit code", ALL_RULES, false, CODE(0x63, 0xc0));
}

static void test_pages(void **state)
{
    struct rig *r = *state;
    struct scan_rules all = ALL_RULES;
    u8 many[5 * 3];
    for (unsigned n = 0; n < 5; n++)
        memcpy(many + 3 * n, sensitive[1].code, 3);
    assert_int_equal(scan(r, all, 7, many, 12).n, 4);
    assert_int_equal(scan(r, all, 7, many, 12).at[3], 16);
    assert_true(scan(r, all, 7, many, 15).n > BREAKPOINTS);
    /* Before the page: not its own, whether it ends there or in it. */
    assert_int_equal(scan(r, all, -10, many, 9).n, 0);
    assert_int_equal(scan(r, all, -2, many, 3).n, 0);
    /* Behind it. */
    assert_int_equal(scan(r, all, PAGE_SIZE, many, 15).n, 0);
    /* A MOV that begins before the page and ends in it hides what is in it from decoding ... */
    assert_int_equal(scan(r, all, -1, CODE(0xb8, 0x8c, 0xd8, 0x9d, 0x90)).n, 0);
    /* ... but not if the page is entered there. */
    struct verdict v = {0};
    direct_scan(r->c, &r->page, &all, 2, &v);
    assert_int_equal(v.n, 1);
    assert_int_equal(v.at[0], 2);
    /* What is no instruction hides none: 06 is not one of 64-bit code. */
    assert_int_equal(scan(r, all, 50, CODE(0x06, 0x9d)).at[0], 51);
    r->page.has_before = false;
    direct_scan(r->c, &r->page, &all, 0, &v);
    assert_int_equal(v.n, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clean), cmocka_unit_test(test_sensitive),
        cmocka_unit_test(test_rules), cmocka_unit_test(test_32bit),
        cmocka_unit_test(test_pages),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("direct_scan", tests, setup, teardown);
}
