/*
 * A guest with more code in use than the translator keeps at first: it keeps more, instead of
 * translating all of it again and again. Usage: test_working_set WIDE.ELF
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "popf.h"
#include "translator.h"

#define LIMIT_MS  60000
#define ONCE      (16000ull * 21) /* instructions of wide.c's functions; run 40 times */
#define MAX_TIMES 20

struct counts {
    unsigned long long instructions, decoded;
};

static void on_stats(void *arg, const char *line)
{
    struct counts *c = arg;
    unsigned long long instructions, decoded;
    const char *text = strchr(line, ':');
    if (text && sscanf(text, ": %llu instructions, %llu decoded", &instructions, &decoded) == 2) {
        c->instructions = instructions;
        c->decoded = decoded;
    }
}

static void test_grows(void **state)
{
    struct counts c = {0};
    struct popf_error err = {{0}};
    struct popf_outcome how = {.end = POPF_END_ERROR};
    struct popf_config cfg = POPF_CONFIG_INIT;
    cfg.kernel = *state;
    cfg.memory = 32 << 20;
    cfg.engine = "bt";
    cfg.debug_exit = true;
    cfg.no_reboot = true;
    struct popf *vm = popf_create(&cfg, &err);
    assert_non_null(vm);
    assert_int_equal(popf_start(vm, &err), 0);
    assert_int_equal(popf_wait_ms(vm, &how, LIMIT_MS), 0);
    popf_engine_stats(vm, on_stats, &c);
    popf_destroy(vm);
    assert_int_equal(how.end, POPF_END_DEBUG_EXIT);
    assert_int_equal(how.code, 1);
    print_message("# decoded %llu times ONCE\n", c.decoded / ONCE);
    assert_in_range(c.decoded, ONCE, MAX_TIMES * ONCE);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    if (!have_translator(argv[1]))
        return 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_grows, argv[1]),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
