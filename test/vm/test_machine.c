/*
 * Whole machines through libpopf's public functions, with the guests of guests.S. Every test runs
 * under the engine named by POPF_TEST_ENGINE (interp).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "popf.h"

#define GUEST_SIZE 4096
#define LOAD       0x100000u
#define WAIT_MS    20000u

extern const char guest_hello[], guest_echo[], guest_poweroff[], guest_reset[], guest_triple[],
    guest_triple_at[], guest_spin[], guest_jump[], guest_halt[], guest_masked[], guest_smp[];

/* A machine and what it said. */
struct box {
    struct popf_config cfg;
    struct popf *vm;
    struct popf_outcome how;
    char path[32];
    pthread_mutex_t lock;
    pthread_cond_t came;
    char out[256];
    size_t nout;
};

static void on_out(void *arg, unsigned port, const void *buf, size_t len)
{
    struct box *b = arg;
    pthread_mutex_lock(&b->lock);
    if (port == 0 && b->nout + len < sizeof(b->out)) {
        memcpy(b->out + b->nout, buf, len);
        b->nout += len;
    }
    pthread_cond_broadcast(&b->came);
    pthread_mutex_unlock(&b->lock);
}

static void prepare(struct box *b, const char *guest)
{
    static const struct popf_config init = POPF_CONFIG_INIT;
    *b = (struct box){.cfg = init, .path = "/tmp/popf-test-XXXXXX"};
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->came, NULL);
    int fd = mkstemp(b->path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, guest, GUEST_SIZE), GUEST_SIZE);
    close(fd);
    const char *engine = getenv("POPF_TEST_ENGINE");
    b->cfg.kernel = b->path;
    b->cfg.engine = engine ? engine : "interp";
    b->cfg.memory = 4 << 20;
    b->cfg.debug_exit = true;
    b->cfg.serial_out = on_out;
    b->cfg.serial_arg = b;
}

static void create(struct box *b)
{
    struct popf_error err = {{0}};
    b->vm = popf_create(&b->cfg, &err);
    if (!b->vm)
        fail_msg("%s", err.msg);
}

static void start(struct box *b)
{
    struct popf_error err = {{0}};
    if (!b->vm)
        create(b);
    if (popf_start(b->vm, &err))
        fail_msg("%s", err.msg);
}

/* Waits for the end; the machine is there until clean_up(). */
static void finish(struct box *b)
{
    if (popf_wait_ms(b->vm, &b->how, WAIT_MS)) {
        struct popf_regs r = {0};
        popf_pause(b->vm);
        popf_get_regs(b->vm, 0, &r, NULL);
        fail_msg("the guest hangs at %#llx, having said \"%s\"", (unsigned long long)r.rip, b->out);
    }
}

static void clean_up(struct box *b)
{
    popf_destroy(b->vm);
    unlink(b->path);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->came);
}

/* Waits until the guest has said `c`. */
static void wait_for(struct box *b, char c)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    int rc = 0;
    pthread_mutex_lock(&b->lock);
    while (!memchr(b->out, c, b->nout) && !rc)
        rc = pthread_cond_timedwait(&b->came, &b->lock, &until);
    pthread_mutex_unlock(&b->lock);
    if (rc)
        fail_msg("the guest did not say '%c'", c);
}

static void sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};
    nanosleep(&t, NULL);
}

static void expect_exit(struct box *b, uint32_t value)
{
    finish(b);
    if (b->how.end != POPF_END_DEBUG_EXIT)
        fail_msg("%s", b->how.text);
    assert_int_equal(b->how.code, value * 2 + 1);
}

static void test_hello(void **state)
{
    struct box b;
    prepare(&b, guest_hello);
    start(&b);
    expect_exit(&b, 21);
    assert_string_equal(b.out, "hello, world\n");
    clean_up(&b);
}

static void test_echo(void **state)
{
    struct box b;
    prepare(&b, guest_echo);
    start(&b);
    assert_int_equal(popf_serial_input(b.vm, 0, "HAL", 3), 3);
    wait_for(&b, 'M');
    assert_int_equal(popf_serial_input(b.vm, 0, "q", 1), 1);
    expect_exit(&b, 1);
    assert_string_equal(b.out, "IBM");
    assert_int_equal(popf_serial_input(b.vm, 9, "q", 1), 0);
    clean_up(&b);
}

static void test_power_off(void **state)
{
    struct box b;
    prepare(&b, guest_poweroff);
    start(&b);
    finish(&b);
    assert_int_equal(b.how.end, POPF_END_POWER_OFF);
    clean_up(&b);
}

static void test_reset(void **state)
{
    struct box b;
    struct popf_stats st;
    prepare(&b, guest_reset);
    start(&b);
    expect_exit(&b, 3);
    popf_stats(b.vm, &st);
    assert_int_equal(st.resets, 2);
    clean_up(&b);
}

static void test_no_reboot(void **state)
{
    struct box b;
    prepare(&b, guest_reset);
    b.cfg.no_reboot = true;
    start(&b);
    finish(&b);
    assert_int_equal(b.how.end, POPF_END_RESET);
    clean_up(&b);
}

static void test_triple_fault(void **state)
{
    struct box b;
    prepare(&b, guest_triple);
    start(&b);
    finish(&b);
    assert_int_equal(b.how.end, POPF_END_TRIPLE_FAULT);
    assert_int_equal(b.how.regs.rip, LOAD + (guest_triple_at - guest_triple));
    assert_non_null(strstr(b.how.text, "triple"));
    clean_up(&b);
}

static void test_halt(void **state)
{
    struct box b;
    prepare(&b, guest_halt);
    start(&b);
    expect_exit(&b, 3);
    clean_up(&b);
}

static void test_budget(void **state)
{
    struct box b;
    prepare(&b, guest_spin);
    b.cfg.max_insns = 100000;
    start(&b);
    finish(&b);
    assert_int_equal(b.how.end, POPF_END_BUDGET);
    clean_up(&b);
}

/* Interrupts wait at the monitor while IF is clear; another machine gets its own meanwhile. */
static void test_masked_interrupts(void **state)
{
    struct box a, other;
    prepare(&a, guest_masked);
    prepare(&other, guest_halt);
    start(&a);
    wait_for(&a, 'r');
    assert_int_equal(popf_serial_input(a.vm, 0, "g", 1), 1);
    wait_for(&a, 'm'); /* both are pending there, none was delivered */

    start(&other);
    expect_exit(&other, 3); /* ten timer interrupts of its own */
    clean_up(&other);

    uint32_t go = 1;
    assert_int_equal(popf_write_memory(a.vm, 0x200000, &go, sizeof(go), NULL), 0);
    expect_exit(&a, 0x14); /* timer (IRQ 0) before COM1 (IRQ 4), each once */
    clean_up(&a);
}

static void test_smp(void **state)
{
    struct box b;
    prepare(&b, guest_smp);
    b.cfg.cpus = 2;
    start(&b);
    expect_exit(&b, 4);
    clean_up(&b);
}

static void test_pause(void **state)
{
    struct box b;
    /* TSC ticks (half a second of 2 GHz) and PM timer ticks (0.3 s): a pause is a second. */
    uint32_t limits[2] = {1000000000, 1073863};
    prepare(&b, guest_jump);
    create(&b);
    assert_int_equal(popf_write_memory(b.vm, 0x200000, limits, sizeof(limits), NULL), 0);
    start(&b);
    wait_for(&b, 'j');

    struct popf_stats before, after;
    popf_pause(b.vm);
    popf_stats(b.vm, &before);
    sleep_ms(1000);
    popf_stats(b.vm, &after);
    assert_true(before.guest_ns == after.guest_ns);
    assert_true(before.insns == after.insns);
    popf_resume(b.vm);
    sleep_ms(20);
    assert_int_equal(popf_serial_input(b.vm, 0, "x", 1), 1);
    expect_exit(&b, 2);
    clean_up(&b);
}

static void test_registers(void **state)
{
    struct box b;
    struct popf_regs r;
    struct popf_error err;
    prepare(&b, guest_spin);
    create(&b);
    assert_int_equal(popf_get_regs(b.vm, 0, &r, &err), 0);
    assert_int_equal(r.rip, LOAD + 32);
    assert_int_equal(popf_get_regs(b.vm, 1, &r, &err), -1);

    start(&b);
    wait_for(&b, 's');
    assert_int_equal(popf_get_regs(b.vm, 0, &r, &err), -1); /* it runs */
    for (uint32_t n = 0; !n; sleep_ms(1))
        popf_read_memory(b.vm, 0x200000, &n, sizeof(n), NULL);
    popf_pause(b.vm);
    popf_pause(b.vm);
    popf_resume(b.vm); /* pauses nest */
    assert_int_equal(popf_get_regs(b.vm, 0, &r, &err), 0);
    assert_int_equal(r.gpr[3], 0x12345678);
    assert_true(r.rip > LOAD && r.rip < LOAD + GUEST_SIZE);

    uint32_t count, code;
    assert_int_equal(popf_read_memory(b.vm, 0x200000, &count, 4, &err), 0);
    assert_true(count > 0);
    assert_int_equal(popf_read_linear(b.vm, 0, LOAD, &code, 4, &err), 0);
    assert_int_equal(code, 0x1badb002);
    assert_int_equal(popf_read_memory(b.vm, 1ull << 40, &count, 4, &err), -1);
    assert_int_equal(popf_read_linear(b.vm, 0, 0xf0000000, &code, 4, &err), -1);

    r.cr0 |= 1u << 31; /* paging without what it needs is refused in long mode's terms */
    r.efer |= 1u << 10;
    assert_int_equal(popf_set_regs(b.vm, 0, &r, &err), -1);
    clean_up(&b);
}

/* New code and a new RIP, put in while the machine is paused. */
static void test_set_registers(void **state)
{
    static const uint8_t leave[] = {0xb8, 7,    0,    0, 0, /* mov $7, %eax */
                                    0x66, 0xba, 0xf4, 0,    /* mov $0xf4, %dx */
                                    0xef,                   /* out %eax, %dx */
                                    0xf4};
    struct box b;
    struct popf_regs r;
    prepare(&b, guest_spin);
    start(&b);
    wait_for(&b, 's');
    popf_pause(b.vm);
    assert_int_equal(popf_write_memory(b.vm, 0x300000, leave, sizeof(leave), NULL), 0);
    assert_int_equal(popf_get_regs(b.vm, 0, &r, NULL), 0);
    r.rip = 0x300000;
    assert_int_equal(popf_set_regs(b.vm, 0, &r, NULL), 0);
    popf_resume(b.vm);
    expect_exit(&b, 7);
    clean_up(&b);
}

static void test_stop(void **state)
{
    struct box b;
    prepare(&b, guest_spin);
    start(&b);
    wait_for(&b, 's');
    popf_stop(b.vm);
    finish(&b);
    assert_int_equal(b.how.end, POPF_END_STOPPED);
    assert_int_equal(popf_start(b.vm, NULL), -1);
    clean_up(&b);

    prepare(&b, guest_spin); /* destroyed while it runs, and never started */
    start(&b);
    clean_up(&b);
    prepare(&b, guest_spin);
    create(&b);
    popf_wait(b.vm, &b.how);
    assert_int_equal(b.how.end, POPF_END_STOPPED);
    clean_up(&b);
    popf_destroy(NULL);
}

static void test_bad_config(void **state)
{
    struct box b;
    struct popf_error err;
    prepare(&b, guest_hello);
    static const struct {
        uint64_t memory;
        unsigned cpus;
        const char *engine, *entry, *kernel;
    } bad[] = {
        {.memory = 4096, .cpus = 1},
        {.memory = 1ull << 41, .cpus = 1},
        {.memory = 4 << 20, .cpus = 0},
        {.memory = 4 << 20, .cpus = POPF_CPUS_MAX + 1},
        {.memory = 4 << 20, .cpus = 1, .engine = "steam"},
        {.memory = 4 << 20, .cpus = 1, .entry = "backdoor"},
        {.memory = 4 << 20, .cpus = 1, .kernel = "/dev/null"},
        {.memory = 4 << 20, .cpus = 1, .kernel = "/"},
        {.memory = 4 << 20, .cpus = 1, .kernel = "/nowhere/at/all"},
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct popf_config cfg = b.cfg;
        cfg.memory = bad[i].memory;
        cfg.cpus = bad[i].cpus;
        cfg.entry = bad[i].entry;
        if (bad[i].engine)
            cfg.engine = bad[i].engine;
        if (bad[i].kernel)
            cfg.kernel = bad[i].kernel;
        err.msg[0] = 0;
        assert_null(popf_create(&cfg, &err));
        assert_true(strlen(err.msg) > 10);
        assert_null(strchr(err.msg, '\n'));
    }
    b.cfg.kernel = NULL;
    assert_null(popf_create(&b.cfg, NULL));
    clean_up(&b);
}

static void test_trace_mask(void **state)
{
    struct popf_error err;
    assert_int_equal(popf_trace_mask("exits", &err), 1);
    assert_int_equal(popf_trace_mask("exits,interrupts", &err), 3);
    assert_true(popf_trace_mask("all", &err) > 3);
    assert_int_equal(popf_trace_mask("exits,steam", &err), 0);
    assert_int_equal(popf_trace_mask("", &err), 0);
    assert_int_equal(
        popf_trace_mask("a-name-that-is-longer-than-any-category-can-be-and-then-some", &err), 0);
}

/* Machines share nothing: many at once, each with its own end. */
static void test_many(void **state)
{
    enum { N = 8 };
    struct box b[N];
    for (unsigned i = 0; i < N; i++) {
        prepare(&b[i], i % 2 ? guest_halt : guest_hello);
        start(&b[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        expect_exit(&b[i], i % 2 ? 3 : 21);
        clean_up(&b[i]);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),         cmocka_unit_test(test_echo),
        cmocka_unit_test(test_power_off),     cmocka_unit_test(test_reset),
        cmocka_unit_test(test_no_reboot),     cmocka_unit_test(test_triple_fault),
        cmocka_unit_test(test_halt),          cmocka_unit_test(test_budget),
        cmocka_unit_test(test_smp),           cmocka_unit_test(test_masked_interrupts),
        cmocka_unit_test(test_pause),         cmocka_unit_test(test_registers),
        cmocka_unit_test(test_set_registers), cmocka_unit_test(test_stop),
        cmocka_unit_test(test_bad_config),    cmocka_unit_test(test_trace_mask),
        cmocka_unit_test(test_many),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
