#include "dev/uart.h"
#include "hand.h"

#include <string.h>

#define BASE 0x3f8
#define RBR  (BASE + 0)
#define THR  (BASE + 0)
#define IER  (BASE + 1)
#define IIR  (BASE + 2)
#define FCR  (BASE + 2)
#define LCR  (BASE + 3)
#define MCR  (BASE + 4)
#define LSR  (BASE + 5)
#define MSR  (BASE + 6)
#define SCR  (BASE + 7)

struct bench {
    struct hand h;
    struct uart uart;
    struct wire irq4;
    char sent[64];
    size_t nsent;
    unsigned rooms;
};

static void tx(void *arg, const u8 *buf, size_t n)
{
    struct bench *b = arg;
    memcpy(b->sent + b->nsent, buf, n);
    b->nsent += n;
}

static void room(void *arg)
{
    struct bench *b = arg;
    b->rooms++;
}

static void start(struct bench *b)
{
    *b = (struct bench){.h = {.clock = {.now = hand_now}, .port = {.name = "port"}}};
    uart_init(&b->uart, &b->h.clock,
              (struct uart_wires){.tx = tx, .room = room, .arg = b, .irq = wire_irq(&b->irq4)});
    assert_int_equal(uart_attach(&b->uart, &b->h.port, BASE), 0);
}

static void receive(struct bench *b, const char *text)
{
    assert_int_equal(uart_rx(&b->uart, (const u8 *)text, strlen(text)), strlen(text));
}

static void test_power_on(void **state)
{
    struct bench b;
    start(&b);
    static const u8 expect[8] = {0, 0, 0x01, 0, 0, 0x60, 0xb0, 0};
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(IN8(&b.h, BASE + i), expect[i]);
    assert_int_equal(IN8(&b.h, RBR), 0);
}

/* What drivers do to tell the chips of the family apart. */
static void test_identification(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, SCR, 0xa5);
    assert_int_equal(IN8(&b.h, SCR), 0xa5);
    OUT8(&b.h, IER, 0xff);
    assert_int_equal(IN8(&b.h, IER), 0x0f);
    OUT8(&b.h, IER, 0);
    OUT8(&b.h, MCR, 0xff);
    assert_int_equal(IN8(&b.h, MCR), 0x1f);
    OUT8(&b.h, MCR, 0x1a); /* loopback, RTS, OUT2 */
    assert_int_equal(IN8(&b.h, MSR) & 0xf0, 0x90);
    OUT8(&b.h, MCR, 0);
    OUT8(&b.h, FCR, 0x01);
    assert_int_equal(IN8(&b.h, IIR), 0xc1);
    OUT8(&b.h, FCR, 0x00);
    assert_int_equal(IN8(&b.h, IIR), 0x01);
    OUT8(&b.h, FCR, 0xc0); /* without bit 0 the rest is not written */
    assert_int_equal(IN8(&b.h, IIR), 0x01);
    OUT8(&b.h, LCR, 0x83);
    OUT8(&b.h, BASE + 0, 0x34);
    OUT8(&b.h, BASE + 1, 0x12);
    assert_int_equal(IN8(&b.h, BASE + 0), 0x34);
    assert_int_equal(IN8(&b.h, BASE + 1), 0x12);
    OUT8(&b.h, LCR, 0x03);
    assert_int_equal(IN8(&b.h, IER), 0);
    assert_int_equal(b.nsent, 0);
    /* LSR and MSR cannot be written. */
    OUT8(&b.h, LSR, 0);
    OUT8(&b.h, MSR, 0);
    assert_int_equal(IN8(&b.h, LSR), 0x60);
    assert_int_equal(IN8(&b.h, MSR) & 0xf0, 0xb0);
}

static void test_transmit(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, MCR, 0x08);
    OUT8(&b.h, THR, 'h');
    OUT8(&b.h, THR, 'i');
    assert_string_equal(b.sent, "hi");
    assert_int_equal(b.irq4.level, 0);
    OUT8(&b.h, IER, 0x02); /* enabling it while the register is empty interrupts */
    assert_int_equal(b.irq4.level, 1);
    assert_int_equal(IN8(&b.h, IIR), 0x02);
    assert_int_equal(b.irq4.level, 0); /* reading IIR took it back */
    assert_int_equal(IN8(&b.h, IIR), 0x01);
    OUT8(&b.h, IER, 0x02); /* was enabled already: nothing new */
    assert_int_equal(b.irq4.level, 0);
    wire_taken(&b.irq4);
    OUT8(&b.h, THR, '!');
    assert_int_equal(wire_taken(&b.irq4), 1);
    OUT8(&b.h, THR, '!'); /* an edge for each byte, without IIR read in between */
    assert_int_equal(wire_taken(&b.irq4), 1);
    OUT8(&b.h, IER, 0x00);
    assert_int_equal(b.irq4.level, 0);
    OUT8(&b.h, IER, 0x02);
    assert_int_equal(b.irq4.level, 1);
}

static void test_out2_gates(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, IER, 0x02);
    assert_int_equal(b.irq4.level, 0);
    OUT8(&b.h, MCR, 0x08);
    assert_int_equal(b.irq4.level, 1);
    OUT8(&b.h, MCR, 0x18); /* in loopback the pins are inactive */
    assert_int_equal(b.irq4.level, 0);
}

static void test_receive_without_fifo(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, MCR, 0x08);
    OUT8(&b.h, IER, 0x01);
    assert_int_equal(uart_rx_room(&b.uart), 1);
    assert_int_equal(uart_rx(&b.uart, (const u8 *)"ab", 2), 1);
    assert_int_equal(b.irq4.level, 1);
    assert_int_equal(IN8(&b.h, IIR), 0x04);
    assert_int_equal(IN8(&b.h, LSR), 0x61);
    assert_int_equal(uart_rx_room(&b.uart), 0);
    assert_int_equal(b.rooms, 0);
    assert_int_equal(IN8(&b.h, RBR), 'a');
    assert_int_equal(b.rooms, 1);
    assert_int_equal(b.irq4.level, 0);
    assert_int_equal(IN8(&b.h, LSR), 0x60);
    receive(&b, "b");
    assert_int_equal(IN8(&b.h, RBR), 'b');
    assert_int_equal(b.rooms, 1); /* nothing was refused */
}

static void test_fifo_trigger(void **state)
{
    static const u8 level[4] = {1, 4, 8, 14};
    for (unsigned i = 0; i < 4; i++) {
        struct bench b;
        start(&b);
        OUT8(&b.h, MCR, 0x08);
        OUT8(&b.h, IER, 0x01);
        OUT8(&b.h, FCR, 0x01 | i << 6);
        for (unsigned n = 1; n <= 16; n++) {
            assert_int_equal(b.irq4.level, n > level[i]);
            receive(&b, "x");
        }
        assert_int_equal(uart_rx(&b.uart, (const u8 *)"x", 1), 0);
        assert_int_equal(IN8(&b.h, IIR), 0xc4);
        for (unsigned n = 16; n >= level[i]; n--) {
            assert_int_equal(b.irq4.level, 1);
            IN8(&b.h, RBR);
        }
        assert_int_equal(b.irq4.level, 0);
        assert_int_equal(b.rooms, 1);
    }
}

/* Below the trigger level characters are announced after four character times. */
static void test_fifo_timeout(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, LCR, 0x83);
    OUT8(&b.h, BASE, 12); /* 9600 baud, 8N1: 4 * 10 bits are 4.1667 ms */
    OUT8(&b.h, LCR, 0x03);
    OUT8(&b.h, MCR, 0x08);
    OUT8(&b.h, IER, 0x01);
    OUT8(&b.h, FCR, 0x81);
    receive(&b, "ab");
    hand_pass(&b.h, 3000000);
    receive(&b, "c");
    hand_pass(&b.h, 4166000);
    assert_int_equal(b.irq4.level, 0);
    hand_pass(&b.h, 1000);
    assert_int_equal(b.irq4.level, 1);
    assert_int_equal(IN8(&b.h, IIR), 0xcc);
    assert_int_equal(IN8(&b.h, IIR), 0xcc); /* until the FIFO is read */
    assert_int_equal(IN8(&b.h, RBR), 'a');
    assert_int_equal(b.irq4.level, 0);
    assert_int_equal(IN8(&b.h, IIR), 0xc1);
    hand_pass(&b.h, 5000000);
    assert_int_equal(IN8(&b.h, IIR), 0xcc);
    OUT8(&b.h, FCR, 0x83); /* clearing the FIFO ends it */
    assert_int_equal(IN8(&b.h, IIR), 0xc1);
    assert_int_equal(IN8(&b.h, LSR), 0x60);
    hand_pass(&b.h, 50000000);
    assert_int_equal(IN8(&b.h, IIR), 0xc1);
}

/* All five sources at once are told in the order of the data sheet. */
static void test_iir_priorities(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, FCR, 0x41); /* trigger level 4 */
    OUT8(&b.h, MCR, 0x1a); /* loopback: DSR falls */
    IN8(&b.h, MSR);
    OUT8(&b.h, MCR, 0x08);
    OUT8(&b.h, IER, 0x0f);
    receive(&b, "abc");
    uart_rx_break(&b.uart);
    assert_int_equal(IN8(&b.h, IIR), 0xc6);
    assert_int_equal(IN8(&b.h, LSR), 0x71);
    assert_int_equal(IN8(&b.h, LSR), 0x61);
    assert_int_equal(IN8(&b.h, IIR), 0xc4);
    assert_int_equal(IN8(&b.h, RBR), 'a');
    hand_pass(&b.h, 1000000);
    assert_int_equal(IN8(&b.h, IIR), 0xcc);
    for (unsigned i = 0; i < 3; i++)
        IN8(&b.h, RBR);
    assert_int_equal(b.irq4.level, 1);
    assert_int_equal(IN8(&b.h, IIR), 0xc2);
    assert_int_equal(b.irq4.level, 1);
    assert_int_equal(IN8(&b.h, IIR), 0xc0);
    assert_int_equal(IN8(&b.h, IIR), 0xc0);        /* reading IIR takes back THRE only */
    assert_int_equal(IN8(&b.h, MSR) & 0x0f, 0x02); /* DSR went up with the end of loopback */
    assert_int_equal(b.irq4.level, 0);
    assert_int_equal(IN8(&b.h, IIR), 0xc1);
}

static void test_loopback(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, MCR, 0x10);
    assert_int_equal(IN8(&b.h, MSR), 0x0b); /* DCD, DSR and CTS fell */
    assert_int_equal(IN8(&b.h, MSR), 0x00);
    OUT8(&b.h, MCR, 0x14);
    assert_int_equal(IN8(&b.h, MSR), 0x40); /* RI rose: no TERI */
    OUT8(&b.h, MCR, 0x10);
    assert_int_equal(IN8(&b.h, MSR), 0x04); /* its trailing edge */
    OUT8(&b.h, THR, 'q');
    assert_int_equal(b.nsent, 0);
    assert_int_equal(IN8(&b.h, LSR), 0x61);
    OUT8(&b.h, THR, 'r'); /* not read in time */
    assert_int_equal(IN8(&b.h, LSR), 0x63);
    assert_int_equal(IN8(&b.h, RBR), 'r');
    assert_int_equal(uart_rx(&b.uart, (const u8 *)"x", 1), 0);
    OUT8(&b.h, MCR, 0x00);
    assert_int_equal(b.rooms, 1);
    assert_int_equal(uart_rx_room(&b.uart), 1);
}

static void test_loopback_fifo_overrun(void **state)
{
    struct bench b;
    start(&b);
    OUT8(&b.h, FCR, 0x01);
    OUT8(&b.h, MCR, 0x10);
    for (unsigned i = 0; i < 17; i++)
        OUT8(&b.h, THR, 'a' + i);
    assert_int_equal(IN8(&b.h, LSR), 0x63);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(IN8(&b.h, RBR), 'a' + i); /* the last is the one lost */
    assert_int_equal(IN8(&b.h, LSR), 0x60);
}

static void test_state(void **state)
{
    struct bench a, b;
    start(&a);
    start(&b);
    OUT8(&a.h, MCR, 0x08);
    OUT8(&a.h, IER, 0x01);
    OUT8(&a.h, FCR, 0xc1);
    receive(&a, "hello");
    IN8(&a.h, RBR);
    SAVE_LOAD(uart_state(&a.uart, s), uart_state(&b.uart, s));
    assert_int_equal(b.irq4.level, 0);
    hand_pass(&b.h, 1000000);
    assert_int_equal(b.irq4.level, 1);
    assert_int_equal(IN8(&b.h, IIR), 0xcc);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(IN8(&b.h, RBR), "ello"[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_on),
        cmocka_unit_test(test_identification),
        cmocka_unit_test(test_transmit),
        cmocka_unit_test(test_out2_gates),
        cmocka_unit_test(test_receive_without_fifo),
        cmocka_unit_test(test_fifo_trigger),
        cmocka_unit_test(test_fifo_timeout),
        cmocka_unit_test(test_iir_priorities),
        cmocka_unit_test(test_loopback),
        cmocka_unit_test(test_loopback_fifo_overrun),
        cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
