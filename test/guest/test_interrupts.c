/*
 * Interrupts as every monitor must have them: while a guest's IF is clear they are kept at the
 * monitor; once it is set they come in priority order, none lost; and a machine beside it in the
 * same process gets its own at once. Usage: test_interrupts KEPT.ELF
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

#include "popf.h"

#define SHARED  0x9000u
#define LIMIT_S 10
#define FLAG_IF 0x200u

/* ORDER KEPT: kept.c */
struct shared {
    uint32_t state, go, taken;
    uint8_t order[16];
    uint32_t received[2];
    uint8_t bytes[2][16];
};

struct machine {
    struct popf *vm;
    pthread_mutex_t lock;
    char out[256];
    size_t nout;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static void on_out(void *arg, unsigned port, const void *buf, size_t len)
{
    struct machine *m = arg;
    pthread_mutex_lock(&m->lock);
    if (port == 0 && m->nout + len < sizeof(m->out)) {
        memcpy(m->out + m->nout, buf, len);
        m->nout += len;
    }
    pthread_mutex_unlock(&m->lock);
}

static size_t said(struct machine *m)
{
    pthread_mutex_lock(&m->lock);
    size_t n = m->nout;
    pthread_mutex_unlock(&m->lock);
    return n;
}

static struct shared look(struct machine *m)
{
    struct shared s;
    assert_int_equal(popf_read_memory(m->vm, SHARED, &s, sizeof(s), NULL), 0);
    return s;
}

static void wait_state(struct machine *m, uint32_t state)
{
    double until = now() + LIMIT_S;
    while (look(m).state < state) {
        if (now() > until)
            fail_msg("the guest does not get to state %u", state);
        nap();
    }
}

static void start(struct machine *m, const char *guest, const char *cmdline)
{
    struct popf_config cfg = POPF_CONFIG_INIT;
    struct popf_error err = {{0}};
    const char *engine = getenv("POPF_TEST_ENGINE");
    *m = (struct machine){0};
    pthread_mutex_init(&m->lock, NULL);
    cfg.kernel = guest;
    cfg.cmdline = cmdline;
    cfg.engine = engine ? engine : "interp";
    cfg.memory = 8 << 20;
    cfg.serial_out = on_out;
    cfg.serial_arg = m;
    m->vm = popf_create(&cfg, &err);
    if (!m->vm || popf_start(m->vm, &err))
        fail_msg("%s", err.msg);
    wait_state(m, 1);
}

static void finish(struct machine *m)
{
    popf_destroy(m->vm);
    pthread_mutex_destroy(&m->lock);
}

/* The less urgent ones first: COM1 (IRQ 4), then COM2 (IRQ 3); the guest's PIT has long fired. */
static void raise_all(struct machine *m)
{
    assert_int_equal(popf_serial_input(m->vm, 0, "abc", 3), 3);
    assert_int_equal(popf_serial_input(m->vm, 1, "xy", 2), 2);
    wait_state(m, 2);
}

/* IF is clear, requests are waiting, and no handler has run. */
static void check_kept(struct machine *m)
{
    struct popf_regs r;
    popf_pause(m->vm);
    assert_int_equal(popf_get_regs(m->vm, 0, &r, NULL), 0);
    struct shared s = look(m);
    popf_resume(m->vm);
    assert_int_equal(r.rflags & FLAG_IF, 0);
    assert_int_equal(s.state, 2);
    assert_int_equal(s.taken, 0);
}

static void let_go(struct machine *m)
{
    uint32_t one = 1;
    assert_int_equal(popf_write_memory(m->vm, SHARED + offsetof(struct shared, go), &one, 4, NULL),
                     0);
    wait_state(m, 3);
}

static void check_delivered(struct machine *m, const uint8_t *order)
{
    struct shared s = look(m);
    assert_int_equal(s.taken, 3);
    assert_memory_equal(s.order, order, 3);
    assert_int_equal(s.received[0], 3);
    assert_memory_equal(s.bytes[0], "abc", 3);
    assert_int_equal(s.received[1], 2);
    assert_memory_equal(s.bytes[1], "xy", 2);
}

static void kept_then_delivered(const char *guest, const char *cmdline, const uint8_t *order)
{
    struct machine m;
    start(&m, guest, cmdline);
    raise_all(&m);
    for (unsigned n = 0; n < 20; n++) {
        check_kept(&m);
        nap();
    }
    let_go(&m);
    check_delivered(&m, order);
    finish(&m);
}

static void test_pic(void **state)
{
    static const uint8_t order[] = {0, 3, 4};
    kept_then_delivered(*state, "", order);
}

/* By vectors 0x83 (IRQ 3), 0x62 (IRQ 0), 0x44 (IRQ 4). */
static void test_apic(void **state)
{
    static const uint8_t order[] = {3, 0, 4};
    kept_then_delivered(*state, "apic=1", order);
}

/* A keeps its interrupts waiting; B answers each of its own meanwhile. */
static void test_other_machine(void **state)
{
    static const uint8_t order[] = {0, 3, 4};
    struct machine a, b;
    double slowest = 0;
    start(&a, *state, "");
    start(&b, *state, "echo=1");
    raise_all(&a);
    for (size_t n = 0; n < 100; n++) {
        char c = (char)('A' + n % 26);
        double from = now();
        assert_int_equal(popf_serial_input(b.vm, 0, &c, 1), 1);
        while (said(&b) <= n && now() - from < LIMIT_S)
            ;
        double took = now() - from;
        slowest = took > slowest ? took : slowest;
        assert_int_equal(said(&b), n + 1);
        assert_int_equal(b.out[n], c);
        if (n % 10 == 0)
            check_kept(&a);
    }
    print_message("# slowest of 100 answers of the other machine: %.3f ms\n", slowest * 1e3);
    assert_true(slowest < 2);
    assert_true(look(&b).taken >= 100);
    check_kept(&a);
    let_go(&a);
    check_delivered(&a, order);
    finish(&b);
    finish(&a);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    void *guest = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_pic, guest),
        cmocka_unit_test_prestate(test_apic, guest),
        cmocka_unit_test_prestate(test_other_machine, guest),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
