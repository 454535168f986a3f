#include "dev/acpi_pm.h"
#include "hand.h"

#define STS 0x600
#define EN  0x602
#define CNT 0x604
#define TMR 0x608
#define GPE 0x620
#define SMI 0xb2

struct bench {
    struct hand h;
    struct acpi_pm pm;
    struct wire sci;
    int slept; /* the last SLP_TYP, or -1 */
};

static void on_sleep(void *arg, unsigned type)
{
    struct bench *b = arg;
    b->slept = (int)type;
}

static void start(struct bench *b, bool tmr32, u16 smi_cmd)
{
    *b = (struct bench){.h = {.clock = {.now = hand_now}, .port = {.name = "port"}}, .slept = -1};
    const struct acpi_pm_config c = {.evt = STS,
                                     .cnt = CNT,
                                     .tmr = TMR,
                                     .gpe0 = GPE,
                                     .smi_cmd = smi_cmd,
                                     .acpi_enable = 0xf1,
                                     .acpi_disable = 0xf0,
                                     .tmr32 = tmr32,
                                     .sleep = on_sleep,
                                     .arg = b,
                                     .sci = wire_irq(&b->sci)};
    b->h.now = 12345;
    acpi_pm_init(&b->pm, &b->h.clock, &c);
    assert_int_equal(acpi_pm_attach(&b->pm, &b->h.port), 0);
}

static void to_tick(struct bench *b, u64 n)
{
    hand_until(&b->h, 12345 + muldiv64(n, NSEC_PER_SEC, ACPI_PM_HZ) + 1);
}

static void test_enable(void **state)
{
    struct bench b;
    start(&b, false, SMI);
    assert_int_equal(IN16(&b.h, CNT), 0);
    OUT16(&b.h, CNT, 0x0001); /* not the guest's to set */
    assert_int_equal(IN16(&b.h, CNT), 0);
    OUT8(&b.h, SMI, 0x55);
    assert_int_equal(IN16(&b.h, CNT), 0);
    OUT8(&b.h, SMI, 0xf1);
    assert_int_equal(IN16(&b.h, CNT), 1);
    OUT8(&b.h, SMI, 0xf0);
    assert_int_equal(IN16(&b.h, CNT), 0);
    start(&b, false, 0); /* without SMI_CMD: ACPI mode for ever */
    assert_int_equal(IN16(&b.h, CNT), 1);
    OUT16(&b.h, CNT, 0);
    assert_int_equal(IN16(&b.h, CNT), 1);
    acpi_pm_reset(&b.pm);
    assert_int_equal(IN16(&b.h, CNT), 1);
}

static void test_power_button(void **state)
{
    struct bench b;
    start(&b, false, SMI);
    OUT16(&b.h, EN, 0x0100);
    acpi_pm_power_button(&b.pm);
    assert_int_equal(b.sci.level, 0); /* legacy mode */
    OUT8(&b.h, SMI, 0xf1);
    assert_int_equal(b.sci.level, 1);
    assert_int_equal(IN16(&b.h, STS), 0x0100);
    OUT16(&b.h, STS, 0x0021); /* other bits */
    assert_int_equal(b.sci.level, 1);
    OUT16(&b.h, STS, 0x0100);
    assert_int_equal(b.sci.level, 0);
    assert_int_equal(IN16(&b.h, STS), 0);
    OUT16(&b.h, EN, 0);
    acpi_pm_event(&b.pm, ACPI_PM_GBL | ACPI_PM_RTC | 0x0002);
    assert_int_equal(IN16(&b.h, STS), 0x0420);
    assert_int_equal(b.sci.level, 0);
    OUT32(&b.h, STS, 0x04000020); /* clears one, enables the other, in one access */
    assert_int_equal(IN32(&b.h, STS), 0x04000400);
    assert_int_equal(b.sci.level, 1);
    OUT8(&b.h, STS + 1, 0x04);
    assert_int_equal(b.sci.level, 0);
    OUT16(&b.h, EN, 0xffff); /* only what exists */
    assert_int_equal(IN16(&b.h, EN), 0x0721);
}

static void test_sleep(void **state)
{
    struct bench b;
    start(&b, false, 0);
    OUT16(&b.h, CNT, 0x1401);
    assert_int_equal(b.slept, -1);
    assert_int_equal(IN16(&b.h, CNT), 0x1401);
    OUT16(&b.h, CNT, 0x3401);
    assert_int_equal(b.slept, 5);
    assert_int_equal(IN16(&b.h, CNT), 0x1401); /* SLP_EN reads as 0 */
    OUT8(&b.h, CNT + 1, 0x20);
    assert_int_equal(b.slept, 0);
}

static void test_timer_counts(void **state)
{
    struct bench b;
    start(&b, false, 0);
    assert_int_equal(IN32(&b.h, TMR), 0);
    hand_pass(&b.h, NSEC_PER_SEC);
    assert_int_equal(IN32(&b.h, TMR), 3579545);
    hand_pass(&b.h, 4 * NSEC_PER_SEC);
    assert_int_equal(IN32(&b.h, TMR), 5 * 3579545 - (1 << 24)); /* 24 bits */
    assert_int_equal(IN8(&b.h, TMR + 1), (5 * 3579545 - (1 << 24)) >> 8 & 0xff);
    OUT32(&b.h, TMR, 0);
    assert_int_equal(IN32(&b.h, TMR), 5 * 3579545 - (1 << 24));
    start(&b, true, 0);
    hand_pass(&b.h, 5 * NSEC_PER_SEC);
    assert_int_equal(IN32(&b.h, TMR), 5 * 3579545);
}

/* TMR_STS: whenever the top bit changes, up or down. */
static void test_timer_status(void **state)
{
    struct bench b;
    start(&b, false, 0);
    to_tick(&b, (1 << 23) - 1);
    assert_int_equal(IN16(&b.h, STS), 0);
    to_tick(&b, 1 << 23);
    assert_int_equal(IN16(&b.h, STS), 1);
    assert_int_equal(b.sci.level, 0);
    assert_true(clock_next(&b.h.clock) == CLOCK_NEVER); /* nobody asked to be woken */
    OUT16(&b.h, STS, 1);
    OUT16(&b.h, EN, 1);
    to_tick(&b, (1 << 24) - 1);
    assert_int_equal(b.sci.level, 0);
    to_tick(&b, 1 << 24);
    assert_int_equal(b.sci.level, 1);
    OUT16(&b.h, STS, 1);
    assert_int_equal(b.sci.level, 0);
    to_tick(&b, 3 << 23);
    assert_int_equal(b.sci.level, 1);
    start(&b, true, 0);
    OUT16(&b.h, EN, 1);
    to_tick(&b, (1ull << 31) - 1);
    assert_int_equal(b.sci.level, 0);
    to_tick(&b, 1ull << 31);
    assert_int_equal(b.sci.level, 1);
}

static void test_gpe(void **state)
{
    struct bench b;
    start(&b, false, 0);
    acpi_pm_gpe(&b.pm, 9);
    acpi_pm_gpe(&b.pm, 16); /* there is none */
    assert_int_equal(IN32(&b.h, GPE), 0x0200);
    assert_int_equal(b.sci.level, 0);
    OUT8(&b.h, GPE + 3, 0x02);
    assert_int_equal(b.sci.level, 1);
    OUT8(&b.h, GPE + 1, 0x02);
    assert_int_equal(b.sci.level, 0);
    assert_int_equal(IN32(&b.h, GPE), 0x02000000);
}

static void test_state(void **state)
{
    struct bench a, b;
    start(&a, false, SMI);
    start(&b, false, SMI);
    OUT8(&a.h, SMI, 0xf1);
    OUT16(&a.h, EN, 0x0101);
    acpi_pm_power_button(&a.pm);
    to_tick(&a, 1000);
    SAVE_LOAD(acpi_pm_state(&a.pm, s), acpi_pm_state(&b.pm, s));
    assert_int_equal(b.sci.level, 1);
    assert_int_equal(IN32(&b.h, TMR), 1000);
    OUT16(&b.h, STS, 0x0100);
    assert_int_equal(b.sci.level, 0);
    hand_pass(&b.h, 3 * NSEC_PER_SEC);
    assert_int_equal(b.sci.level, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_enable),       cmocka_unit_test(test_power_button),
        cmocka_unit_test(test_sleep),        cmocka_unit_test(test_timer_counts),
        cmocka_unit_test(test_timer_status), cmocka_unit_test(test_gpe),
        cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
