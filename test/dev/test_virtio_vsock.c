/*
 * vsock: the handshakes both ways, data and credit both ways, half-closed and closed connections,
 * refusals, and a driver that keeps to no rules.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "dev/virtio_vsock.h"
#include "ring.h"

enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct hdr {
    u64 src_cid, dst_cid;
    u32 src_port, dst_port, len;
    u16 type, op;
    u32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

static struct ring ring;
static struct virtio_vsock dev;
static char top[32], path[64];

static int setup(void **state)
{
    struct virtio_vsock_config cfg = {.path = path, .cid = 5, .loop = &ring.loop, .mem = &ring.mem};
    struct err e;
    strcpy(top, "/var/tmp/popf-vs.XXXXXX");
    assert_non_null(mkdtemp(top));
    snprintf(path, sizeof(path), "%s/v", top);
    ring_init(&ring);
    assert_int_equal(virtio_vsock_init(&dev, &cfg, &e), 0);
    ring_start(&ring, &dev.v);
    return 0;
}

static int teardown(void **state)
{
    pthread_mutex_lock(&ring.lock);
    virtio_vsock_free(&dev);
    pthread_mutex_unlock(&ring.lock);
    assert_int_equal(access(path, F_OK), -1);
    ring_free(&ring);
    return rmdir(top);
}

/* --- the host's programs --- */

static int sock(const char *name, bool listening)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", name);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (!listening && !connect(fd, (struct sockaddr *)&a, sizeof(a)))
        return fd;
    if (listening && !bind(fd, (struct sockaddr *)&a, sizeof(a)) && !listen(fd, 5))
        return fd;
    close(fd);
    return -1;
}

static const char *port_path(u32 port)
{
    static char buf[80];
    snprintf(buf, sizeof(buf), "%s_%u", path, port);
    return buf;
}

/* --- the guest's driver --- */

static void give_buffers(unsigned n, u32 size)
{
    while (n--)
        ring_add(&ring, 0, NULL, 0, size);
    ring_kick(&ring, 0);
}

static void send_full(struct hdr h, const void *data)
{
    u8 buf[RING_BUF];
    struct ring_done d;
    memcpy(buf, &h, sizeof(h));
    if (data)
        memcpy(buf + sizeof(h), data, h.len);
    ring_add(&ring, 1, buf, sizeof(h) + (data ? h.len : 0), 0);
    ring_kick(&ring, 1);
    assert_true(ring_wait(&ring, 1, &d));
}

static u32 guest_fwd, guest_alloc = 4096;

static void send_op(u32 gport, u32 hport, u16 op, const void *data, u32 len)
{
    send_full((struct hdr){5, 2, gport, hport, len, 1, op, 0, guest_alloc, guest_fwd}, data);
}

static void send_shutdown(u32 gport, u32 hport, u32 flags)
{
    send_full((struct hdr){5, 2, gport, hport, 0, 1, SHUTDOWN, flags, guest_alloc, guest_fwd},
              NULL);
}

/* The next packet; its data in `data`. Gives the buffer back. */
static struct hdr receive(char data[RING_BUF])
{
    struct ring_done d;
    struct hdr h;
    assert_true(ring_wait(&ring, 0, &d));
    const u8 *p = ring_buf(&ring, 0, d.head);
    memcpy(&h, p, sizeof(h));
    assert_int_equal(d.len, sizeof(h) + h.len);
    assert_int_equal(h.src_cid, 2);
    assert_int_equal(h.dst_cid, 5);
    if (data) {
        memcpy(data, p + sizeof(h), h.len);
        data[h.len] = 0;
    }
    give_buffers(1, 4096);
    return h;
}

static struct hdr expect(u16 op)
{
    struct hdr h = receive(NULL);
    assert_int_equal(h.op, op);
    return h;
}

static void expect_silence(void)
{
    struct ring_done d;
    ring_turn(&ring);
    assert_false(ring_take(&ring, 0, &d));
}

/* A connection from the guest's port 1000 to the host's 52; the host's end. */
static int open_from_guest(void)
{
    guest_fwd = 0;
    guest_alloc = 4096;
    give_buffers(RING_SIZE / 2 - (u16)(ring.avail[0] - ring.used[0]), 4096);
    int l = sock(port_path(52), true);
    send_op(1000, 52, REQUEST, NULL, 0);
    int fd = accept(l, NULL, NULL);
    assert_true(fd >= 0);
    struct hdr h = expect(RESPONSE);
    assert_int_equal(h.src_port, 52);
    assert_int_equal(h.dst_port, 1000);
    assert_int_equal(h.type, 1);
    assert_true(h.buf_alloc >= 65536);
    close(l);
    unlink(port_path(52));
    return fd;
}

static void test_guest_connects(void **state)
{
    char buf[RING_BUF];
    int fd = open_from_guest();
    send_op(1000, 52, RW, "hello", 5);
    assert_int_equal(read(fd, buf, sizeof(buf)), 5);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(write(fd, "world!", 6), 6);
    struct hdr h = receive(buf);
    assert_int_equal(h.op, RW);
    assert_string_equal(buf, "world!");
    assert_int_equal(h.fwd_cnt, 5);
    send_op(1000, 52, CREDIT_REQUEST, NULL, 0);
    assert_int_equal(expect(CREDIT_UPDATE).fwd_cnt, 5);
    close(fd);
    assert_int_equal(expect(SHUTDOWN).flags, 3);
    send_op(1000, 52, RST, NULL, 0);
    assert_int_equal(dev.nconns, 0);
}

static void test_refused(void **state)
{
    give_buffers(4, 4096);
    send_op(1000, 53, REQUEST, NULL, 0);
    assert_int_equal(expect(RST).src_port, 53);
    send_op(1000, 53, RW, "x", 1);
    expect(RST);
    send_op(1000, 53, RST, NULL, 0);
    expect_silence();
    send_full((struct hdr){5, 2, 1, 53, 0, 2, REQUEST, 0, 0, 0}, NULL); /* SEQPACKET */
    assert_int_equal(expect(RST).type, 2);
    send_full((struct hdr){6, 2, 1, 53, 0, 1, REQUEST, 0, 0, 0}, NULL); /* not our guest */
    send_full((struct hdr){5, 9, 1, 53, 0, 1, REQUEST, 0, 0, 0}, NULL);
    expect_silence();
    assert_int_equal(dev.nconns, 0);
}

static void test_host_connects(void **state)
{
    char buf[64];
    give_buffers(8, 4096);
    int fd = sock(path, false);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "CONN", 4), 4);
    expect_silence();
    assert_int_equal(write(fd, "ECT 77\nearly", 12), 12);
    struct hdr h = expect(REQUEST);
    assert_int_equal(h.dst_port, 77);
    expect_silence(); /* no data before the guest has accepted */
    send_op(77, h.src_port, RESPONSE, NULL, 0);
    int n = read(fd, buf, sizeof(buf) - 1);
    buf[n > 0 ? n : 0] = 0;
    char want[32];
    snprintf(want, sizeof(want), "OK %u\n", h.src_port);
    assert_string_equal(buf, want);
    char data[RING_BUF];
    assert_int_equal(receive(data).op, RW);
    assert_string_equal(data, "early");
    send_op(77, h.src_port, RW, "late", 4);
    assert_int_equal(read(fd, buf, sizeof(buf)), 4);
    /* A second one gets another port. */
    int fd2 = sock(path, false);
    assert_int_equal(write(fd2, "CONNECT 77\n", 11), 11);
    struct hdr h2 = expect(REQUEST);
    assert_int_not_equal(h2.src_port, h.src_port);
    send_op(77, h2.src_port, RST, NULL, 0); /* refused: the socket is closed */
    assert_int_equal(read(fd2, buf, sizeof(buf)), 0);
    close(fd2);
    close(fd);
}

static void bad_line(const char *line)
{
    char c;
    int fd = sock(path, false);
    struct pollfd p = {fd, POLLIN, 0};
    assert_int_equal(write(fd, line, strlen(line)), strlen(line));
    ring_turn(&ring);
    assert_int_equal(poll(&p, 1, 0), 1);
    assert_true(read(fd, &c, 1) <= 0);
    close(fd);
    assert_int_equal(dev.nconns, 0);
}

static void test_bad_lines(void **state)
{
    give_buffers(4, 4096);
    bad_line("CONNECT\n");
    bad_line("CONNECT x\n");
    bad_line("CONNECT -1\n");
    bad_line("CONNECT 4294967295\n");
    bad_line("CONNECT 99999999999999999999\n");
    bad_line("connect 5\n");
    bad_line("\n");
    bad_line("CONNECT 0000000000000000000000000000000000000000000005\n");
    expect_silence();
}

/* The host's client goes away before the guest has answered. */
static void test_impatient(void **state)
{
    give_buffers(4, 4096);
    int fd = sock(path, false);
    assert_int_equal(write(fd, "CONNECT 77\n", 11), 11);
    struct hdr h = expect(REQUEST);
    close(fd);
    assert_int_equal(expect(RST).src_port, h.src_port);
    assert_int_equal(dev.nconns, 0);
}

static void test_guest_closes(void **state)
{
    char buf[64];
    int fd = open_from_guest();
    send_op(1000, 52, RW, "bye", 3);
    send_shutdown(1000, 52, 3);
    expect(RST);
    assert_int_equal(read(fd, buf, sizeof(buf)), 3);
    assert_int_equal(read(fd, buf, sizeof(buf)), 0);
    assert_int_equal(dev.nconns, 0);
    close(fd);
}

/* The guest has said all, the host has not; and the other way round. */
static void test_half_closed(void **state)
{
    char buf[RING_BUF];
    int fd = open_from_guest();
    send_shutdown(1000, 52, 2);
    assert_int_equal(read(fd, buf, sizeof(buf)), 0);
    assert_int_equal(write(fd, "answer", 6), 6);
    assert_int_equal(receive(buf).op, RW);
    assert_string_equal(buf, "answer");
    close(fd);
    assert_int_equal(expect(SHUTDOWN).flags, 3);
    send_op(1000, 52, RST, NULL, 0);
    assert_int_equal(dev.nconns, 0);

    fd = open_from_guest();
    assert_int_equal(write(fd, "question", 8), 8);
    shutdown(fd, SHUT_WR);
    assert_int_equal(receive(buf).op, RW);
    assert_int_equal(expect(SHUTDOWN).flags, 2);
    send_op(1000, 52, RW, "reply", 5);
    assert_int_equal(read(fd, buf, sizeof(buf)), 5);
    send_shutdown(1000, 52, 3);
    expect(RST);
    assert_int_equal(read(fd, buf, sizeof(buf)), 0);
    close(fd);
}

/* Data follows the guest's credit exactly, and goes on with more of it. */
static void test_credit(void **state)
{
    char buf[RING_BUF] = {0};
    u32 got = 0;
    int fd = open_from_guest();
    assert_int_equal(write(fd, buf, 20000), 20000);
    while (got < 4096)
        got += receive(buf).len;
    assert_int_equal(got, 4096);
    expect(CREDIT_REQUEST);
    expect_silence();
    guest_fwd = 100;
    send_op(1000, 52, CREDIT_UPDATE, NULL, 0);
    assert_int_equal(receive(buf).len, 100);
    expect(CREDIT_REQUEST);
    guest_fwd = 50000; /* more than was sent: nothing */
    send_op(1000, 52, CREDIT_UPDATE, NULL, 0);
    expect_silence();
    close(fd);
    guest_fwd = 4196;
    guest_alloc = 65536;
    send_op(1000, 52, CREDIT_UPDATE, NULL, 0);
    for (got = 4196; got < 20000;) { /* the rest comes, although the host has closed */
        struct hdr h = receive(buf);
        assert_int_equal(h.op, RW);
        got += h.len;
    }
    assert_int_equal(got, 20000);
    expect(SHUTDOWN);
}

/* The host does not read: what the guest sends is kept up to its credit, and no further. */
static void test_slow_host(void **state)
{
    static char chunk[32768], buf[RING_BUF];
    u64 sent = 0, got = 0;
    int fd = open_from_guest();
    for (int i = 0; i < 6; i++) {
        memset(chunk, 'a' + i, sizeof(chunk));
        send_op(1000, 52, RW, chunk, sizeof(chunk));
        sent += sizeof(chunk);
    }
    while (got < sent) {
        ssize_t n = read(fd, buf, sizeof(buf));
        assert_true(n > 0);
        for (ssize_t k = 0; k < n; k++)
            assert_int_equal(buf[k], 'a' + (got + k) / sizeof(chunk));
        got += n;
        ring_turn(&ring);
    }
    expect(CREDIT_UPDATE);
    struct ring_done d;
    while (ring_take(&ring, 0, &d))
        give_buffers(1, 4096);
    for (int i = 0; i < 40; i++) /* far beyond */
        send_op(1000, 52, RW, chunk, sizeof(chunk));
    while (dev.nconns)
        expect(RST);
    while (read(fd, buf, sizeof(buf)) > 0)
        ;
    close(fd);
}

/* No receive buffers: refusals pile up to a limit, then sending stops, and goes on with buffers. */
static void test_no_buffers(void **state)
{
    struct hdr h = {5, 2, 1, 53, 0, 1, RW, 0, 0, 0};
    unsigned taken = 0, resets = 0;
    struct ring_done d;
    for (unsigned i = 0; i < VIRTIO_VSOCK_RESETS + RING_SIZE / 2; i++) {
        if (i < VIRTIO_VSOCK_RESETS || i - VIRTIO_VSOCK_RESETS < RING_SIZE / 2)
            ring_add(&ring, 1, &h, sizeof(h), 0);
        ring_kick(&ring, 1);
        taken += ring_take(&ring, 1, &d);
    }
    assert_int_equal(taken, VIRTIO_VSOCK_RESETS);
    while (resets < VIRTIO_VSOCK_RESETS + RING_SIZE / 2) {
        give_buffers(1, 4096);
        assert_true(ring_wait(&ring, 0, &d));
        resets++;
        taken += ring_take(&ring, 1, &d);
    }
    ring_turn(&ring);
    while (ring_take(&ring, 1, &d))
        taken++;
    assert_int_equal(taken, resets);
    give_buffers(1, 4096);
    expect_silence();
}

static void test_hostile(void **state)
{
    static char chunk[60000];
    struct ring_done d;
    int fd = open_from_guest();
    ring_add(&ring, 1, chunk, 20, 0); /* less than a header */
    ring_kick(&ring, 1);
    assert_true(ring_wait(&ring, 1, &d));
    send_full((struct hdr){5, 2, 1000, 52, 0xffffffff, 1, RW, 0, 4096, 0}, NULL);
    send_full((struct hdr){5, 2, 1000, 52, 100, 1, RW, 0, 4096, 0}, NULL); /* no such data */
    expect_silence();
    send_op(1000, 52, REQUEST, NULL, 0); /* again, on an open connection */
    expect(RST);
    assert_int_equal(dev.nconns, 0);
    close(fd);
    fd = open_from_guest();
    send_op(1000, 52, RESPONSE, NULL, 0);
    expect(RST);
    close(fd);
    fd = open_from_guest();
    send_op(1000, 52, 99, NULL, 0);
    expect(RST);
    close(fd);
    fd = open_from_guest();
    send_shutdown(1000, 52, 2);
    send_op(1000, 52, RW, "x", 1);
    expect(RST);
    close(fd);
    assert_false(dev.v.broken);
    ring_start(&ring, &dev.v);
    give_buffers(1, 44);
    send_op(1000, 53, REQUEST, NULL, 0);
    assert_true(dev.v.broken);
}

static void test_reset(void **state)
{
    char c;
    int fd = open_from_guest();
    int fd2 = sock(path, false);
    ring_turn(&ring);
    assert_int_equal(dev.nconns, 2);
    ring_start(&ring, &dev.v);
    assert_int_equal(dev.nconns, 0);
    assert_int_equal(read(fd, &c, 1), 0);
    assert_true(read(fd2, &c, 1) <= 0);
    close(fd);
    close(fd2);
    close(open_from_guest());
}

static void test_restore(void **state)
{
    struct state s, in;
    struct ring_done d;
    int fd = open_from_guest();
    state_init_save(&s);
    virtio_vsock_state(&dev, &s);
    assert_false(s.failed);
    state_init_load(&in, s.buf, s.len);
    pthread_mutex_lock(&ring.lock);
    virtio_vsock_state(&dev, &in);
    pthread_mutex_unlock(&ring.lock);
    assert_false(in.failed);
    assert_int_equal(dev.nconns, 0);
    ring_add(&ring, 2, NULL, 0, 4);
    memset(ring_buf(&ring, 2, 0), 0xff, 4);
    ring_turn(&ring);
    assert_true(ring_take(&ring, 2, &d));
    assert_int_equal(d.len, 4);
    assert_int_equal(*(u32 *)ring_buf(&ring, 2, 0), 0);
    state_free(&s);
    close(fd);
}

static void test_path(void **state)
{
    struct virtio_vsock_config cfg = {.path = path, .cid = 5, .loop = &ring.loop, .mem = &ring.mem};
    static struct virtio_vsock other;
    char other_path[80], longer[200];
    struct err e;
    assert_int_equal(virtio_vsock_init(&other, &cfg, &e), -1); /* somebody listens there */
    assert_int_equal(access(path, F_OK), 0);
    snprintf(other_path, sizeof(other_path), "%s/w", top);
    close(sock(other_path, true)); /* a dead socket is replaced */
    cfg.path = other_path;
    assert_int_equal(virtio_vsock_init(&other, &cfg, &e), 0);
    virtio_vsock_free(&other);
    FILE *f = fopen(other_path, "w"); /* a file is not */
    fclose(f);
    assert_int_equal(virtio_vsock_init(&other, &cfg, &e), -1);
    unlink(other_path);
    memset(longer, 'x', sizeof(longer));
    longer[150] = 0;
    cfg.path = longer;
    assert_int_equal(virtio_vsock_init(&other, &cfg, &e), -1);
    cfg.path = other_path;
    cfg.cid = 2;
    assert_int_equal(virtio_vsock_init(&other, &cfg, &e), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_guest_connects, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_host_connects, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_impatient, setup, teardown),
        cmocka_unit_test_setup_teardown(test_guest_closes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_credit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_host, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_buffers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restore, setup, teardown),
        cmocka_unit_test_setup_teardown(test_path, setup, teardown),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
