#include "dev/i8042.h"
#include "hand.h"

struct bench {
    struct hand h;
    struct i8042 kbc;
    struct wire irq1;
    unsigned resets;
    int a20;
};

static void on_reset(void *arg)
{
    struct bench *b = arg;
    b->resets++;
}

static void on_a20(void *arg, bool on)
{
    struct bench *b = arg;
    b->a20 = on;
}

static void start(struct bench *b)
{
    *b = (struct bench){.h = {.port = {.name = "port"}}, .a20 = -1};
    i8042_init(&b->kbc,
               (struct i8042_wires){
                   .reset = on_reset, .a20 = on_a20, .arg = b, .irq1 = wire_irq(&b->irq1)});
    assert_int_equal(i8042_attach(&b->kbc, &b->h.port), 0);
}

/* A byte that must be there; 0x100 if it is not. */
static unsigned next(struct bench *b)
{
    return IN8(&b->h, 0x64) & 1 ? IN8(&b->h, 0x60) : 0x100;
}

static unsigned command(struct bench *b, u8 c)
{
    OUT8(&b->h, 0x64, c);
    return next(b);
}

static void set_command_byte(struct bench *b, u8 v)
{
    OUT8(&b->h, 0x64, 0x60);
    OUT8(&b->h, 0x60, v);
}

static void test_controller(void **state)
{
    struct bench b;
    start(&b);
    assert_int_equal(IN8(&b.h, 0x64), 0x14);
    assert_int_equal(command(&b, 0xaa), 0x55);
    assert_int_equal(IN8(&b.h, 0x64), 0x1c); /* the last byte was a command */
    assert_int_equal(command(&b, 0xab), 0x00);
    assert_int_equal(command(&b, 0x20), 0x65);
    set_command_byte(&b, 0x74);
    assert_int_equal(IN8(&b.h, 0x64), 0x14);
    assert_int_equal(command(&b, 0x20), 0x74);
    OUT8(&b.h, 0x64, 0xae);
    assert_int_equal(command(&b, 0x20), 0x64);
    OUT8(&b.h, 0x64, 0xad);
    assert_int_equal(command(&b, 0x20), 0x74);
    assert_int_equal(command(&b, 0xd0), 0xcf);
    assert_int_equal(command(&b, 0xc0), 0x80);
    assert_int_equal(next(&b), 0x100);
}

/* The order in which Linux asks: no AUX port is found, and nothing waits for a time-out. */
static void test_linux_probe(void **state)
{
    struct bench b;
    start(&b);
    assert_int_equal(next(&b), 0x100);
    u8 ctr = command(&b, 0x20);
    set_command_byte(&b, (ctr | 0x10) & ~0x01);
    OUT8(&b.h, 0x64, 0xd3);
    OUT8(&b.h, 0x60, 0x5a);
    assert_int_equal(IN8(&b.h, 0x64) & 0x21, 0x01); /* an answer, but not from the mouse */
    unsigned test = command(&b, 0xa9);
    assert_true(test != 0 && test != 0xfa && test != 0xff && test != 0x100);
    OUT8(&b.h, 0x64, 0xa8);
    assert_int_equal(command(&b, 0x20) & 0x20, 0x20); /* cannot be enabled */
    while (next(&b) != 0x100)
        ;
    set_command_byte(&b, ctr);
    assert_int_equal(b.irq1.level, 0);
}

static void test_absent_mouse(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, 0x64, 0xd4);
    OUT8(&b.h, 0x60, 0xff);
    assert_int_equal(IN8(&b.h, 0x64) & 0x61, 0x61); /* time-out, from the mouse's side */
    assert_int_equal(b.irq1.level, 0);
    assert_int_equal(IN8(&b.h, 0x60), 0xfe);
    assert_int_equal(IN8(&b.h, 0x64) & 0x61, 0x00);
}

static unsigned keyboard(struct bench *b, u8 v)
{
    OUT8(&b->h, 0x60, v);
    return next(b);
}

static void test_keyboard(void **state)
{
    struct bench b;
    start(&b);
    assert_int_equal(keyboard(&b, 0xff), 0xfa);
    assert_int_equal(next(&b), 0xaa);
    assert_int_equal(next(&b), 0x100);
    assert_int_equal(keyboard(&b, 0xf2), 0xfa);
    assert_int_equal(next(&b), 0xab);
    assert_int_equal(next(&b), 0x41); /* 83 translated */
    assert_int_equal(keyboard(&b, 0xed), 0xfa);
    assert_int_equal(keyboard(&b, 0x07), 0xfa);
    assert_int_equal(b.kbc.leds, 7);
    assert_int_equal(keyboard(&b, 0xee), 0xee);
    assert_int_equal(keyboard(&b, 0xf3), 0xfa);
    assert_int_equal(keyboard(&b, 0x00), 0xfa);
    set_command_byte(&b, 0x25);
    assert_int_equal(keyboard(&b, 0xf2), 0xfa);
    assert_int_equal(next(&b), 0xab);
    assert_int_equal(next(&b), 0x83);
    assert_int_equal(keyboard(&b, 0xf0), 0xfa);
    assert_int_equal(keyboard(&b, 0x00), 0xfa);
    assert_int_equal(next(&b), 0x02);
    assert_int_equal(keyboard(&b, 0xf0), 0xfa);
    assert_int_equal(keyboard(&b, 0x03), 0xfa);
    assert_int_equal(b.kbc.set, 3);
    assert_int_equal(keyboard(&b, 0xf0), 0xfa);
    assert_int_equal(keyboard(&b, 0x04), 0xfe);
    assert_int_equal(keyboard(&b, 0xf6), 0xfa);
    assert_int_equal(b.kbc.set, 2);
    assert_int_equal(keyboard(&b, 0x12), 0xfe); /* no such command */
    assert_int_equal(keyboard(&b, 0xfe), 0xfa); /* resend: what came before the FE */
}

static void test_scanning(void **state)
{
    struct bench b;
    start(&b);
    assert_int_equal(keyboard(&b, 0xf5), 0xfa);
    i8042_key(&b.kbc, 0x1c);
    assert_int_equal(next(&b), 0x100);
    assert_int_equal(keyboard(&b, 0xf4), 0xfa);
    wire_taken(&b.irq1);
    i8042_key(&b.kbc, 0x1c); /* A pressed, released; Right Ctrl pressed, released */
    i8042_key(&b.kbc, 0xf0);
    i8042_key(&b.kbc, 0x1c);
    i8042_key(&b.kbc, 0xe0);
    i8042_key(&b.kbc, 0x14);
    i8042_key(&b.kbc, 0xe0);
    i8042_key(&b.kbc, 0xf0);
    i8042_key(&b.kbc, 0x14);
    static const u8 expect[] = {0x1e, 0x9e, 0xe0, 0x1d, 0xe0, 0x9d};
    for (unsigned i = 0; i < sizeof(expect); i++) {
        assert_int_equal(wire_taken(&b.irq1), 1); /* an edge for each byte */
        assert_int_equal(b.irq1.level, 1);
        assert_int_equal(next(&b), expect[i]);
    }
    assert_int_equal(b.irq1.level, 0);
    assert_int_equal(next(&b), 0x100);
}

/* While the keyboard is switched off its bytes wait; without the interrupt enable IRQ1 is silent.
 */
static void test_interface_off(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, 0x64, 0xad);
    i8042_key(&b.kbc, 0x1c);
    assert_int_equal(IN8(&b.h, 0x64) & 1, 0);
    assert_int_equal(b.irq1.level, 0);
    OUT8(&b.h, 0x64, 0xae);
    assert_int_equal(b.irq1.level, 1);
    set_command_byte(&b, 0x44);
    assert_int_equal(b.irq1.level, 0);
    assert_int_equal(next(&b), 0x1e);
    for (unsigned i = 0; i < 100; i++)
        i8042_key(&b.kbc, 0x1c);
    unsigned n = 0;
    while (next(&b) != 0x100)
        n++;
    assert_int_equal(n, 33); /* the queue and the output buffer */
}

static void test_reset_and_a20(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, 0x64, 0xfe);
    assert_int_equal(b.resets, 1);
    OUT8(&b.h, 0x64, 0xff); /* pulses nothing */
    assert_int_equal(b.resets, 1);
    OUT8(&b.h, 0x64, 0xd1);
    OUT8(&b.h, 0x60, 0xdd);
    assert_int_equal(b.a20, 0);
    assert_int_equal(command(&b, 0xd0) & 3, 1);
    OUT8(&b.h, 0x64, 0xdf);
    assert_int_equal(b.a20, 1);
    assert_int_equal(b.resets, 1);
    OUT8(&b.h, 0x64, 0xd1);
    OUT8(&b.h, 0x60, 0xde);
    assert_int_equal(b.resets, 2);
}

static void test_state(void **state)
{
    struct bench a, b;
    start(&a);
    start(&b);
    i8042_key(&a.kbc, 0x1c);
    i8042_key(&a.kbc, 0xf0);
    i8042_key(&a.kbc, 0x1c);
    OUT8(&a.h, 0x64, 0x60);
    SAVE_LOAD(i8042_state(&a.kbc, s), i8042_state(&b.kbc, s));
    assert_int_equal(b.irq1.level, 1);
    OUT8(&b.h, 0x60, 0x64); /* the command's data */
    assert_int_equal(b.irq1.level, 0);
    assert_int_equal(next(&b), 0x1e);
    assert_int_equal(next(&b), 0x9e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_controller),    cmocka_unit_test(test_linux_probe),
        cmocka_unit_test(test_absent_mouse),  cmocka_unit_test(test_keyboard),
        cmocka_unit_test(test_scanning),      cmocka_unit_test(test_interface_off),
        cmocka_unit_test(test_reset_and_a20), cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
