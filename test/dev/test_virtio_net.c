/* A network card's rings, written by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "virtio_net_rig.h"

#define HEAD 12u

static const struct seg rx_page = {DATA_AT, 4096, true};

static void fill(u8 *frame, size_t len)
{
    for (size_t i = 0; i < len; i++)
        frame[i] = (u8)(i * 3 + i / 256);
    memcpy(frame, "\x52\x50\x46\x00\x00\x01\x52\x55\x0a\x00\x02\x02\x08\x00", 14);
}

static void test_config(void **state)
{
    struct card c;
    card_init(&c, NET_CAN_CSUM, 9000);
    struct virtio_dev *d = &c.nic.v;
    assert_int_equal(d->id, 1);
    assert_int_equal(d->nqueues, 3);
    assert_int_equal(virtio_config_read(d, 0, 4), 0x00465052);
    assert_int_equal(virtio_config_read(d, 4, 2), 0x0100);
    assert_int_equal(virtio_config_read(d, 6, 2), 1);
    assert_int_equal(virtio_config_read(d, 10, 2), 9000);
    assert_int_equal(virtio_config_read(d, 16, 1), 1);
    assert_true(d->offered & VIRTIO_NET_F_MTU);
    card_free(&c);
    card_init(&c, NET_CAN_CSUM, 1500);
    assert_false(c.nic.v.offered & VIRTIO_NET_F_MTU);
    card_free(&c);
}

static void test_link(void **state)
{
    struct card c;
    card_init(&c, 0, 1500);
    card_start(&c, VIRTIO_NET_F_STATUS);
    net_set_link(&c.net, false);
    assert_int_equal(virtio_config_read(&c.nic.v, 6, 2), 0);
    assert_int_equal(c.interrupts[3], 1);
    net_set_link(&c.net, false);
    assert_int_equal(c.interrupts[3], 1);
    net_set_link(&c.net, true);
    assert_int_equal(virtio_config_read(&c.nic.v, 6, 2), 1);
    assert_int_equal(c.interrupts[3], 2);
    card_free(&c);
}

/* A header and a frame in pieces. */
static void test_send(void **state)
{
    struct card c;
    card_init(&c, 0, 1500);
    card_start(&c, 0);
    fill(card_at(&c, DATA_AT + HEAD), 100);
    const struct seg s[] = {{DATA_AT, 5}, {DATA_AT + 5, 20}, {DATA_AT + 25, 87}};
    card_add(&c, VIRTIO_NET_TX, s, 3);
    card_add(&c, VIRTIO_NET_TX, &(struct seg){DATA_AT, 112}, 1);
    assert_int_equal(c.nsent, 0);
    card_kick(&c, VIRTIO_NET_TX);
    assert_int_equal(c.nsent, 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(c.sent_len[i], 100);
        assert_memory_equal(c.sent[i], card_at(&c, DATA_AT + HEAD), 100);
    }
    assert_int_equal(card_done(&c, VIRTIO_NET_TX), 2);
    assert_int_equal(card_take(&c, VIRTIO_NET_TX).id, 0);
    assert_int_equal(card_take(&c, VIRTIO_NET_TX).id, 3);
    assert_int_equal(c.interrupts[VIRTIO_NET_TX], 1); /* one for both */
    card_free(&c);
}

/* What is no frame is handed back all the same. */
static void test_send_nonsense(void **state)
{
    struct card c;
    card_init(&c, NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6, 1500);
    card_start(&c, VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4);
    static const struct {
        u32 len;
        struct net_offload o;
    } bad[] = {
        {11},
        {HEAD},
        {HEAD + 13},
        {HEAD + NET_FRAME_MAX + 1},
        {HEAD + 64, {.flags = 1, .csum_start = 64}},
        {HEAD + 64, {.flags = 1, .csum_start = 60, .csum_offset = 3}},
        {HEAD + 64, {.flags = 1, .csum_start = 65535, .csum_offset = 65535}},
        {HEAD + 64, {.flags = 1, .gso = 1, .gso_size = 0, .csum_start = 34, .csum_offset = 16}},
        {HEAD + 64, {.flags = 0, .gso = 1, .gso_size = 1460}},
        {HEAD + 64, {.flags = 1, .gso = 4, .gso_size = 9, .csum_start = 34, .csum_offset = 16}},
        {HEAD + 64, {.flags = 1, .gso = 3, .gso_size = 9, .csum_start = 34, .csum_offset = 6}},
        {HEAD + 64, {.flags = 1, .gso = 0xff, .gso_size = 9, .csum_start = 34, .csum_offset = 6}},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        memcpy(card_at(&c, DATA_AT), &bad[i].o, sizeof(bad[i].o));
        card_add(&c, VIRTIO_NET_TX, &(struct seg){DATA_AT, bad[i].len}, 1);
        card_kick(&c, VIRTIO_NET_TX);
        assert_int_equal(c.nsent, 0);
        assert_int_equal(card_done(&c, VIRTIO_NET_TX), 1);
        assert_int_equal(card_take(&c, VIRTIO_NET_TX).len, 0);
    }
    /* Offloads that were not negotiated. */
    card_start(&c, 0);
    struct net_offload o = {.flags = 1, .csum_start = 34, .csum_offset = 6};
    memcpy(card_at(&c, DATA_AT), &o, sizeof(o));
    card_add(&c, VIRTIO_NET_TX, &(struct seg){DATA_AT, HEAD + 64}, 1);
    card_kick(&c, VIRTIO_NET_TX);
    assert_int_equal(c.nsent, 1);
    assert_int_equal(c.sent_o[0].flags, 0);
    card_free(&c);
}

static void test_checksum(void **state)
{
    struct card c;
    card_init(&c, 0, 1500); /* a backend that takes complete frames only */
    card_start(&c, VIRTIO_NET_F_CSUM);
    struct net_offload o = {.flags = 1, .csum_start = 16, .csum_offset = 2};
    memcpy(card_at(&c, DATA_AT), &o, sizeof(o));
    u8 *f = card_at(&c, DATA_AT + HEAD);
    memset(f, 0, 22);
    memcpy(f + 16, "\x00\x01\x00\x00\xf2\x03", 6);
    card_add(&c, VIRTIO_NET_TX, &(struct seg){DATA_AT, HEAD + 22}, 1);
    card_kick(&c, VIRTIO_NET_TX);
    assert_int_equal(c.nsent, 1);
    assert_memory_equal(c.sent[0] + 18, "\x0d\xfb", 2);
    assert_int_equal(c.sent_o[0].flags, 0);
    card_free(&c);
}

/* The backend is full: the frame stays the driver's until there is room. */
static void test_send_waits(void **state)
{
    struct card c;
    card_init(&c, 0, 1500);
    card_start(&c, 0);
    fill(card_at(&c, DATA_AT + HEAD), 60);
    c.full = true;
    for (unsigned i = 0; i < 3; i++)
        card_add(&c, VIRTIO_NET_TX, &(struct seg){DATA_AT, HEAD + 60}, 1);
    card_kick(&c, VIRTIO_NET_TX);
    card_kick(&c, VIRTIO_NET_TX);
    assert_int_equal(card_done(&c, VIRTIO_NET_TX), 0);
    c.full = false;
    net_room(&c.net);
    card_turn(&c);
    assert_int_equal(c.nsent, 3);
    assert_int_equal(card_done(&c, VIRTIO_NET_TX), 3);
    /* Reset while one waits. */
    c.full = true;
    card_add(&c, VIRTIO_NET_TX, &(struct seg){DATA_AT, HEAD + 60}, 1);
    card_kick(&c, VIRTIO_NET_TX);
    virtio_set_status(&c.nic.v, 0);
    c.full = false;
    net_room(&c.net);
    card_turn(&c);
    assert_int_equal(c.nsent, 3);
    card_free(&c);
}

static void test_receive(void **state)
{
    struct card c;
    u8 f[100];
    card_init(&c, 0, 1500);
    card_start(&c, 0);
    fill(f, sizeof(f));
    const struct seg s[] = {
        {DATA_AT, 10, true}, {DATA_AT + 512, 30, true}, {DATA_AT + 1024, 1500, true}};
    card_add(&c, VIRTIO_NET_RX, s, 3);
    assert_true(card_receive(&c, f, sizeof(f), NULL));
    assert_int_equal(card_done(&c, VIRTIO_NET_RX), 1);
    assert_int_equal(card_take(&c, VIRTIO_NET_RX).len, HEAD + 100);
    assert_int_equal(c.interrupts[VIRTIO_NET_RX], 1);
    assert_memory_equal(card_at(&c, DATA_AT), "\0\0\0\0\0\0\0\0\0\0", 10);
    assert_memory_equal(card_at(&c, DATA_AT + 512), "\1\0", 2); /* num_buffers, always there */
    assert_memory_equal(card_at(&c, DATA_AT + 514), f, 28);
    assert_memory_equal(card_at(&c, DATA_AT + 1024), f + 28, 72);
    card_free(&c);
}

/* A frame larger than a buffer, with mergeable buffers and without. */
static void test_receive_merged(void **state)
{
    struct card c;
    static u8 f[10000];
    card_init(&c, 0, 9000);
    card_start(&c, VIRTIO_NET_F_MRG_RXBUF);
    fill(f, sizeof(f));
    for (unsigned i = 0; i < 4; i++)
        card_add(&c, VIRTIO_NET_RX, &(struct seg){DATA_AT + 4096 * i, 4096, true}, 1);
    assert_true(card_receive(&c, f, sizeof(f), NULL));
    assert_int_equal(card_done(&c, VIRTIO_NET_RX), 3);
    u32 len[3];
    for (unsigned i = 0; i < 3; i++)
        len[i] = card_take(&c, VIRTIO_NET_RX).len;
    assert_int_equal(len[0], 4096);
    assert_int_equal(len[1], 4096);
    assert_int_equal(len[2], HEAD + 10000 - 8192);
    assert_memory_equal(card_at(&c, DATA_AT + 10), "\3\0", 2);
    assert_memory_equal(card_at(&c, DATA_AT + HEAD), f, sizeof(f));
    /* One buffer is left: too few. The frame waits, and the buffer is not lost. */
    assert_true(card_receive(&c, f, sizeof(f), NULL));
    assert_int_equal(card_done(&c, VIRTIO_NET_RX), 0);
    card_add(&c, VIRTIO_NET_RX, &rx_page, 1);
    card_kick(&c, VIRTIO_NET_RX);
    assert_int_equal(card_done(&c, VIRTIO_NET_RX), 0);
    card_add(&c, VIRTIO_NET_RX, &(struct seg){DATA_AT + 4096, 4096, true}, 1);
    card_kick(&c, VIRTIO_NET_RX);
    assert_int_equal(card_done(&c, VIRTIO_NET_RX), 3);
    assert_int_equal(card_take(&c, VIRTIO_NET_RX).id, 3);
    /* Without them it is dropped, and the buffer stays. */
    card_start(&c, 0);
    card_add(&c, VIRTIO_NET_RX, &rx_page, 1);
    assert_true(card_receive(&c, f, sizeof(f), NULL));
    assert_int_equal(card_done(&c, VIRTIO_NET_RX), 0);
    assert_true(card_receive(&c, f, 100, NULL));
    assert_int_equal(card_done(&c, VIRTIO_NET_RX), 1);
    card_free(&c);
}

/* Frames without buffers wait, in order, and the backend is asked to stop. */
static void test_receive_waits(void **state)
{
    struct card c;
    static u8 f[60000];
    card_init(&c, 0, 1500);
    card_start(&c, VIRTIO_NET_F_MRG_RXBUF);
    fill(f, sizeof(f));
    bool more = true;
    unsigned n = 0;
    for (; more && n < 100; n++) {
        f[20] = (u8)n;
        more = card_receive(&c, f, sizeof(f), NULL);
    }
    assert_int_equal(n, 5);
    for (unsigned i = 0; i < 200; i++) /* one that does not stop loses frames, not memory */
        card_receive(&c, f, sizeof(f), NULL);
    assert_true(c.nic.rx.queued <= 4 * MiB);
    assert_true(c.nic.rx_dropped > 100);
    assert_int_equal(c.resumes, 0);
    unsigned frames = 0;
    for (unsigned i = 0; i < 200; i++) {
        const struct seg s = {DATA_AT, 61000, true};
        card_add(&c, VIRTIO_NET_RX, &s, 1);
        card_kick(&c, VIRTIO_NET_RX);
        if (!card_done(&c, VIRTIO_NET_RX))
            break;
        card_take(&c, VIRTIO_NET_RX);
        if (frames < 5)
            assert_int_equal(*card_at(&c, DATA_AT + HEAD + 20), frames);
        frames++;
    }
    assert_true(frames > 60 && frames < 80);
    assert_int_equal(c.resumes, 1);
    card_free(&c);
}

/* What the driver has not negotiated is made complete before it gets it. */
static void test_receive_offload(void **state)
{
    struct card c;
    u8 f[22] = {0};
    struct net_offload o = {.flags = 1, .csum_start = 16, .csum_offset = 2};
    memcpy(f + 16, "\x00\x01\x00\x00\xf2\x03", 6);
    card_init(&c, 0, 1500);
    card_start(&c, VIRTIO_NET_F_GUEST_CSUM);
    card_add(&c, VIRTIO_NET_RX, &rx_page, 1);
    card_receive(&c, f, sizeof(f), &o);
    assert_memory_equal(card_at(&c, DATA_AT), &o, sizeof(o));
    assert_memory_equal(card_at(&c, DATA_AT + HEAD + 18), "\0\0", 2);
    card_start(&c, 0);
    card_add(&c, VIRTIO_NET_RX, &rx_page, 1);
    card_receive(&c, f, sizeof(f), &o);
    assert_memory_equal(card_at(&c, DATA_AT), "\0\0\0\0\0\0\0\0\0\0", 10);
    assert_memory_equal(card_at(&c, DATA_AT + HEAD + 18), "\x0d\xfb", 2);
    card_free(&c);
}

/* Buffers that make no sense. */
static void test_receive_nonsense(void **state)
{
    struct card c;
    u8 f[100];
    fill(f, sizeof(f));
    card_init(&c, 0, 1500);
    card_start(&c, VIRTIO_NET_F_MRG_RXBUF);
    for (unsigned i = 0; i < 40; i++) /* too small for the header */
        card_add(&c, VIRTIO_NET_RX, &(struct seg){DATA_AT, 11, true}, 1);
    card_receive(&c, f, sizeof(f), NULL);
    assert_true(c.nic.v.broken);
    card_start(&c, VIRTIO_NET_F_MRG_RXBUF);
    assert_false(c.nic.v.broken);
    for (unsigned i = 0; i < 100; i++) /* more of them than one frame may take */
        card_add(&c, VIRTIO_NET_RX, &(struct seg){DATA_AT, i ? 1 : 12, true}, 1);
    card_receive(&c, f, sizeof(f), NULL);
    assert_false(c.nic.v.broken);
    assert_int_equal(card_done(&c, VIRTIO_NET_RX), 0);
    card_start(&c, VIRTIO_NET_F_MRG_RXBUF);
    for (unsigned i = 0; i < 100; i++) /* empty ones */
        card_add(&c, VIRTIO_NET_RX, &(struct seg){DATA_AT, 0, true}, 1);
    card_receive(&c, f, sizeof(f), NULL);
    card_start(&c, VIRTIO_NET_F_MRG_RXBUF);
    card_add(&c, VIRTIO_NET_RX, &(struct seg){RAM_SIZE - 10, 100, true}, 1);
    card_receive(&c, f, sizeof(f), NULL);
    assert_true(c.nic.v.broken);
    assert_int_equal(c.nic.v.status & VIRTIO_S_NEEDS_RESET, VIRTIO_S_NEEDS_RESET);
    card_free(&c);
}

/* --- the control queue --- */

static u8 control(struct card *c, const void *cmd, u32 len)
{
    u8 *ack = card_at(c, DATA_AT + 0x8000);
    *ack = 0xaa;
    memcpy(card_at(c, DATA_AT + 0x7000), cmd, len);
    const struct seg s[] = {{DATA_AT + 0x7000, len}, {DATA_AT + 0x8000, 1, true}};
    card_add(c, VIRTIO_NET_CTRL, s, 2);
    card_kick(c, VIRTIO_NET_CTRL);
    assert_int_equal(card_done(c, VIRTIO_NET_CTRL), 1);
    card_take(c, VIRTIO_NET_CTRL);
    return *ack;
}

static bool gets(struct card *c, const char *to)
{
    u8 f[64];
    fill(f, sizeof(f));
    memcpy(f, to, 6);
    card_add(c, VIRTIO_NET_RX, &rx_page, 1);
    card_receive(c, f, sizeof(f), NULL);
    if (!card_done(c, VIRTIO_NET_RX))
        return false;
    card_take(c, VIRTIO_NET_RX);
    return true;
}

static void test_filter(void **state)
{
    static const char own[] = "\x52\x50\x46\0\0\1", other[] = "\x52\x50\x46\0\0\2",
                      multi[] = "\x33\x33\0\0\0\1", multi2[] = "\x33\x33\0\0\0\2",
                      all[] = "\xff\xff\xff\xff\xff\xff";
    struct card c;
    card_init(&c, 0, 1500);
    card_start(&c, VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_CTRL_RX);
    assert_true(gets(&c, other)); /* nobody has said anything */
    assert_int_equal(control(&c, "\0\0\0", 3), 0);
    assert_false(gets(&c, other));
    assert_true(gets(&c, own));
    assert_true(gets(&c, all));
    assert_false(gets(&c, multi));
    u8 table[26] = {1, 0, 1, 0, 0, 0};
    memcpy(table + 6, other, 6);
    table[12] = 1;
    memcpy(table + 16, multi, 6);
    assert_int_equal(control(&c, table, 22), 0);
    assert_true(gets(&c, other));
    assert_true(gets(&c, multi));
    assert_false(gets(&c, multi2));
    assert_int_equal(control(&c, "\0\1\1", 3), 0); /* all multicast */
    assert_true(gets(&c, multi2));
    assert_int_equal(control(&c, "\0\5\1", 3), 0); /* no broadcast */
    assert_false(gets(&c, all));
    assert_int_equal(control(&c, "\1\1\x52\x50\x46\0\0\7", 8), 0);
    assert_false(gets(&c, own));
    assert_true(gets(&c, "\x52\x50\x46\0\0\7"));
    assert_int_equal(virtio_config_read(&c.nic.v, 5, 1), 7);
    card_start(&c, 0);
    assert_int_equal(virtio_config_read(&c.nic.v, 5, 1), 1);
    assert_true(gets(&c, "\2\0\0\0\0\0"));
    card_free(&c);
}

static void test_control_nonsense(void **state)
{
    struct card c;
    static u8 table[4096] = {1, 0};
    card_init(&c, 0, 1500);
    card_start(&c, VIRTIO_NET_F_CTRL_VQ);
    assert_int_equal(control(&c, "\0", 1), 1);
    assert_int_equal(control(&c, "\0\0", 2), 1);
    assert_int_equal(control(&c, "\0\6\1", 3), 1);
    assert_int_equal(control(&c, "\7\0\1", 3), 1);
    assert_int_equal(control(&c, "\1\1\1\0\0\0\0\0", 8), 1); /* a multicast address of its own */
    assert_int_equal(control(&c, "\1\1\2\0\0\0\0", 7), 1);
    assert_int_equal(control(&c, "\1\0\xff\xff\xff\xff", 6), 1);
    assert_int_equal(control(&c, "\1\0\0\0\0\0", 6), 1);
    assert_int_equal(control(&c, "\1\0\0\0\0\0\1\0\0\0", 10), 1);
    assert_int_equal(control(&c, "\5\0\xff\xff\xff\xff\xff\xff\xff\xff", 10), 1);
    table[2] = 200; /* more than are remembered: the filter is left open */
    assert_int_equal(control(&c, table, 2 + 4 + 1200 + 4), 0);
    assert_int_equal(control(&c, "\0\0\0", 3), 0);
    assert_true(gets(&c, "\2\0\0\0\0\x77"));
    assert_false(gets(&c, "\3\0\0\0\0\x77"));
    card_free(&c);
}

static void test_state(void **state)
{
    struct card a, b;
    struct state s, t;
    card_init(&a, 0, 1500);
    card_init(&b, 0, 1500);
    card_start(&a, VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_GUEST_CSUM);
    control(&a, "\1\1\x52\x50\x46\0\0\7", 8);
    control(&a, "\0\0\0", 3);
    a.full = true;
    fill(card_at(&a, DATA_AT + HEAD), 60);
    card_add(&a, VIRTIO_NET_TX, &(struct seg){DATA_AT, HEAD + 60}, 1);
    card_kick(&a, VIRTIO_NET_TX);
    state_init_save(&s);
    virtio_net_state(&a.nic, &s);
    memcpy(card_at(&b, 0), card_at(&a, 0), RAM_SIZE);
    state_init_load(&t, s.buf, s.len);
    virtio_net_state(&b.nic, &t);
    assert_false(t.failed);
    assert_int_equal(t.pos, t.len);
    card_turn(&b);
    assert_int_equal(b.nsent, 1); /* what waited is sent, by both */
    a.full = false;
    card_turn(&a);
    assert_int_equal(a.nsent, 1);
    assert_int_equal(virtio_config_read(&b.nic.v, 5, 1), 7);
    assert_int_equal(b.net.peer_caps, NET_CAN_CSUM);
    assert_false(gets(&b, "\x52\x50\x46\0\0\1"));
    state_free(&s);
    card_free(&a);
    card_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_link),
        cmocka_unit_test(test_send),
        cmocka_unit_test(test_send_nonsense),
        cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_send_waits),
        cmocka_unit_test(test_receive),
        cmocka_unit_test(test_receive_merged),
        cmocka_unit_test(test_receive_waits),
        cmocka_unit_test(test_receive_offload),
        cmocka_unit_test(test_receive_nonsense),
        cmocka_unit_test(test_filter),
        cmocka_unit_test(test_control_nonsense),
        cmocka_unit_test(test_state),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
