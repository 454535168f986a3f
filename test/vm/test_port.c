/* A named port of the console, between a driver's rings and a client at its unix socket. */
#define RING_QUEUES 6
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../dev/ring.h"
#include "vm/vm_port.h"

struct bench {
    struct clock clock;
    struct ring r;
    struct virtio_console c;
    struct vm_port p;
    char dir[32], path[64];
};

static u64 never(struct clock *c)
{
    return 0;
}

static void control(struct bench *b, u16 event)
{
    struct ring_done done;
    u8 msg[8] = {event == 0 ? 0 : 1, 0, 0, 0, (u8)event, 0, 1, 0};
    ring_add(&b->r, 3, msg, 8, 0);
    ring_kick(&b->r, 3);
    assert_true(ring_take(&b->r, 3, &done));
}

static void stop(struct bench *b);

static void start(struct bench *b)
{
    struct virtio_console_end none = {0};
    *b = (struct bench){.clock = {.now = never}, .dir = "/tmp/popf-port.XXXXXX"};
    assert_non_null(mkdtemp(b->dir));
    snprintf(b->path, sizeof(b->path), "%s/port", b->dir);
    ring_init(&b->r);
    virtio_console_init(&b->c, &b->r.mem, &b->clock, &none);
    assert_int_equal(vm_port_init(&b->p, &b->c, &b->r.loop, "agent", b->path, NULL), 0);
    ring_start(&b->r, &b->c.v);
    control(b, 0);
}

/* Somebody's socket is his; one that nobody listens at any more is replaced. */
static void test_stale_socket(void **state)
{
    static struct virtio_console c;
    static struct vm_port p;
    struct virtio_console_end none = {0};
    struct bench b;
    struct err e;
    start(&b);
    virtio_console_init(&c, &b.r.mem, &b.clock, &none);
    assert_int_equal(vm_port_init(&p, &c, &b.r.loop, "x", b.path, &e), -1);
    assert_non_null(strstr(e.msg, "another machine"));
    vm_port_free(&p);
    assert_int_equal(access(b.path, F_OK), 0);
    loop_del(&b.p.listener); /* as if it had been killed */
    close(b.p.listen_fd);
    b.p.listen_fd = -1;
    assert_int_equal(vm_port_init(&p, &c, &b.r.loop, "y", b.path, NULL), 0);
    vm_port_free(&p);
    stop(&b);
}

static void stop(struct bench *b)
{
    vm_port_free(&b->p);
    assert_int_not_equal(access(b->path, F_OK), 0);
    rmdir(b->dir);
    ring_free(&b->r);
}

static int dial(struct bench *b)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", b->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    ring_turn(&b->r);
    return fd;
}

static void test_both_ways(void **state)
{
    struct bench b;
    struct ring_done done;
    char buf[64] = {0};
    start(&b);
    int fd = dial(&b);
    assert_true(b.c.port[1].host_open);
    assert_int_equal(send(fd, "question", 8, 0), 8);
    ring_turn(&b.r);
    unsigned head = ring_add(&b.r, 4, NULL, 0, 64);
    ring_kick(&b.r, 4);
    assert_false(ring_take(&b.r, 4, &done)); /* the guest has not opened its end */
    control(&b, 6);
    assert_true(ring_wait(&b.r, 4, &done));
    assert_int_equal(done.len, 8);
    assert_memory_equal(ring_buf(&b.r, 4, head), "question", 8);
    ring_add(&b.r, 5, "answer", 6, 0);
    ring_kick(&b.r, 5);
    assert_int_equal(recv(fd, buf, sizeof(buf), 0), 6);
    assert_string_equal(buf, "answer");

    int second = dial(&b); /* one client at a time */
    assert_int_equal(recv(second, buf, sizeof(buf), 0), 0);
    close(second);
    close(fd);
    ring_turn(&b.r);
    assert_false(b.c.port[1].host_open);
    fd = dial(&b);
    assert_true(b.c.port[1].host_open);
    close(fd);
    stop(&b);
}

/* What a client that has gone had sent still arrives. */
static void test_last_words(void **state)
{
    struct bench b;
    struct ring_done done;
    start(&b);
    int fd = dial(&b);
    assert_int_equal(send(fd, "bye", 3, 0), 3);
    close(fd);
    ring_turn(&b.r);
    assert_true(b.c.port[1].host_open);
    control(&b, 6);
    ring_add(&b.r, 4, NULL, 0, 64);
    ring_kick(&b.r, 4);
    assert_true(ring_wait(&b.r, 4, &done));
    assert_int_equal(done.len, 3);
    assert_false(b.c.port[1].host_open);
    stop(&b);
}

/* A client that does not read: the guest's output waits, and comes in order. */
static void test_slow_client(void **state)
{
    struct bench b;
    struct ring_done done;
    static u8 block[0x8000], got[0x8000];
    unsigned sent = 0, back = 0;
    size_t len = 0;
    start(&b);
    int fd = dial(&b);
    control(&b, 6);
    while (sent < 200 && b.c.port[1].held == false) {
        memset(block, (int)sent++, sizeof(block));
        ring_add(&b.r, 5, block, sizeof(block), 0);
        ring_kick(&b.r, 5);
        back += ring_take(&b.r, 5, &done);
    }
    assert_in_range(sent, 2, 199);
    for (unsigned i = 0; i < sent * 64 && len < sent * sizeof(block); i++) {
        ssize_t n = recv(fd, got, sizeof(got), 0);
        for (ssize_t k = 0; k < n; k++, len++)
            if (got[k] != (u8)(len / sizeof(block)))
                fail();
        loop_wait(&b.r.loop, 1);
    }
    assert_int_equal(len, sent * sizeof(block));
    while (ring_take(&b.r, 5, &done))
        back++;
    assert_int_equal(back, sent);
    close(fd);
    stop(&b);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways), cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_slow_client), cmocka_unit_test(test_stale_socket)};
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
