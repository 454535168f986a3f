/* User-mode networking: frames built by hand talk to sockets of the host's loopback. */
#include "rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"

static void open_user(struct rig *r, const char *spec)
{
    rig_init(r);
    assert_int_equal(net_config_parse(&r->cfg, spec, NULL), 0);
}

static void send_now(struct rig *r, u8 *frame, size_t len)
{
    pthread_mutex_lock(&r->lock);
    assert_int_equal(net_send(r->net, frame, len, NULL), 0);
    net_flush(r->net);
    pthread_mutex_unlock(&r->lock);
}

static bool is_arp(const u8 *f, size_t len)
{
    return len >= 42 && net_get16(f + 12) == ETH_ARP && f[21] == 2;
}

static bool is_proto(const u8 *f, size_t len, u8 proto)
{
    return len >= 42 && net_get16(f + 12) == ETH_IPV4 && f[23] == proto;
}

static bool is_icmp(const u8 *f, size_t len)
{
    return is_proto(f, len, IP_ICMP);
}

static bool is_udp(const u8 *f, size_t len)
{
    return is_proto(f, len, IP_UDP);
}

static bool is_syn_ack(const u8 *f, size_t len)
{
    return is_proto(f, len, IP_TCP) && (f[47] & 0x3f) == (TCP_SYN | TCP_ACK);
}

static bool is_syn(const u8 *f, size_t len)
{
    return is_proto(f, len, IP_TCP) && (f[47] & 0x3f) == TCP_SYN;
}

static bool is_rst(const u8 *f, size_t len)
{
    return is_proto(f, len, IP_TCP) && f[47] & TCP_RST;
}

static bool is_tcp_data(const u8 *f, size_t len)
{
    return is_proto(f, len, IP_TCP) && net_get16(f + 16) > 40 && !(f[47] & TCP_SYN);
}

/* A guest that has said who it is. */
static void say_hello(struct rig *r)
{
    u8 f[64];
    send_now(r, f, frame_arp_request(f, gateway_ip));
    struct kept *k = rig_wait(r, is_arp);
    assert_memory_equal(k->frame + 28, gateway_ip, 4);
    assert_memory_equal(k->frame, guest_mac, 6);
    rig_forget(r);
}

/* A socket of the host on a port of its own choice. */
static int host_socket(int type, u16 *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof(a);
    int s = socket(AF_INET, type | SOCK_NONBLOCK, 0);
    assert_true(s >= 0);
    assert_int_equal(bind(s, (struct sockaddr *)&a, n), 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(s, 4), 0);
    assert_int_equal(getsockname(s, (struct sockaddr *)&a, &n), 0);
    *port = ntohs(a.sin_port);
    return s;
}

/* A port that was free a moment ago. */
static u16 free_port(int type)
{
    u16 port;
    close(host_socket(type, &port));
    return port;
}

static void turn_until_readable(struct rig *r, int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (unsigned i = 0; i < 400; i++) {
        if (poll(&p, 1, 0) == 1)
            return;
        rig_turn(r, 5);
    }
    fail_msg("nothing came to the host's socket");
}

static void test_arp_and_ping(void **state)
{
    struct rig r;
    open_user(&r, "user");
    rig_open(&r);
    assert_int_equal(r.net->mtu, NET_MTU);
    say_hello(&r);
    u8 f[128] = {0};
    u8 *icmp = f + 34;
    icmp[0] = 8;
    memcpy(icmp + 8, "ping", 4);
    u16 sum = (u16)~net_csum_add(0, icmp, 12);
    memcpy(icmp + 2, &sum, 2);
    send_now(&r, f, frame_ip(f, IP_ICMP, gateway_ip, 12));
    struct kept *k = rig_wait(&r, is_icmp);
    assert_int_equal(k->frame[34], 0); /* an echo reply */
    assert_memory_equal(k->frame + 42, "ping", 4);
    rig_free(&r);
}

static void test_udp(void **state)
{
    struct rig r;
    u16 port;
    int s = host_socket(SOCK_DGRAM, &port);
    open_user(&r, "user");
    rig_open(&r);
    say_hello(&r);
    u8 f[128];
    send_now(&r, f, frame_udp(f, gateway_ip, 4000, port, "hello", 5));
    turn_until_readable(&r, s);
    struct sockaddr_in from;
    socklen_t n = sizeof(from);
    char buf[16];
    assert_int_equal(recvfrom(s, buf, sizeof(buf), 0, (struct sockaddr *)&from, &n), 5);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(sendto(s, "back", 4, 0, (struct sockaddr *)&from, n), 4);
    struct kept *k = rig_wait(&r, is_udp);
    assert_memory_equal(k->frame + 26, gateway_ip, 4);
    assert_int_equal(net_get16(k->frame + 34), port);
    assert_int_equal(net_get16(k->frame + 36), 4000);
    assert_memory_equal(k->frame + 42, "back", 4);
    assert_true(sums_right(k->frame, k->len));
    assert_int_equal(k->o.flags, NET_CSUM_VALID);
    close(s);
    rig_free(&r);
}

/* Opens a TCP connection to a port of the host; *h is what the next segment has. */
static int connect_out(struct rig *r, int listener, u16 port, struct tcp *h)
{
    u8 f[128];
    *h = (struct tcp){.sport = 5000, .dport = port, .seq = 1000, .flags = TCP_SYN};
    send_now(r, f, frame_tcp(f, gateway_ip, h, NULL, 0));
    struct kept *k = rig_wait(r, is_syn_ack);
    assert_int_equal(get32(k->frame + 42), 1001);
    h->seq = 1001;
    h->ack = get32(k->frame + 38) + 1;
    h->flags = TCP_ACK;
    rig_forget(r);
    send_now(r, f, frame_tcp(f, gateway_ip, h, NULL, 0));
    turn_until_readable(r, listener);
    int s = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    assert_true(s >= 0);
    return s;
}

static void test_tcp(void **state)
{
    struct rig r;
    u16 port;
    struct tcp h;
    int listener = host_socket(SOCK_STREAM, &port);
    open_user(&r, "user");
    rig_open(&r);
    say_hello(&r);
    int s = connect_out(&r, listener, port, &h);
    u8 f[128];
    send_now(&r, f, frame_tcp(f, gateway_ip, &h, "to the host", 11));
    turn_until_readable(&r, s);
    char buf[32];
    assert_int_equal(recv(s, buf, sizeof(buf), 0), 11);
    assert_memory_equal(buf, "to the host", 11);
    assert_int_equal(send(s, "to the guest", 12, 0), 12);
    struct kept *k = rig_wait(&r, is_tcp_data);
    assert_memory_equal(k->frame + 54, "to the guest", 12);
    assert_true(sums_right(k->frame, k->len));
    close(s);
    close(listener);
    rig_free(&r);
}

/* One frame of 60,000 bytes without a checksum, as a guest with HOST_TSO4 sends it. */
static void test_tcp_offload(void **state)
{
    struct rig r;
    u16 port;
    struct tcp h;
    static u8 f[NET_FRAME_MAX], got[65536];
    const size_t len = 60001;
    int listener = host_socket(SOCK_STREAM, &port);
    open_user(&r, "user");
    rig_open(&r);
    say_hello(&r);
    int s = connect_out(&r, listener, port, &h);
    tcp_header(f + 34, &h);
    for (size_t i = 0; i < len; i++)
        f[54 + i] = (u8)(i * 7 + i / 256);
    size_t n = frame_ip(f, IP_TCP, gateway_ip, 20 + len);
    frame_pseudo(f, IP_TCP, 20 + len, 16);
    struct net_offload o = {.flags = NET_NEEDS_CSUM,
                            .gso = NET_GSO_TCPV4,
                            .gso_size = 1460,
                            .hdr_len = 54,
                            .csum_start = 34,
                            .csum_offset = 16};
    pthread_mutex_lock(&r.lock);
    assert_int_equal(net_send(r.net, f, n, &o), 0);
    net_flush(r.net);
    pthread_mutex_unlock(&r.lock);
    for (size_t have = 0; have < len;) {
        turn_until_readable(&r, s);
        ssize_t k = recv(s, got + have, sizeof(got) - have, 0);
        assert_true(k > 0);
        have += (size_t)k;
    }
    assert_memory_equal(got, f + 54, len);
    close(s);
    close(listener);
    rig_free(&r);
}

static void test_refused(void **state)
{
    struct rig r;
    open_user(&r, "user");
    rig_open(&r);
    say_hello(&r);
    u8 f[128];
    struct tcp h = {.sport = 5000, .dport = free_port(SOCK_STREAM), .flags = TCP_SYN};
    send_now(&r, f, frame_tcp(f, gateway_ip, &h, NULL, 0));
    rig_wait(&r, is_rst);
    rig_free(&r);
}

static void add_forward(struct rig *r, u16 host, u16 guest, const char *tail)
{
    char spec[64];
    snprintf(spec, sizeof(spec), "%u:%u%s", host, guest, tail);
    assert_int_equal(net_config_forward(&r->cfg, spec, NULL), 0);
}

static void test_forward_tcp(void **state)
{
    struct rig r;
    u16 port = free_port(SOCK_STREAM);
    open_user(&r, "user");
    add_forward(&r, port, 22, "");
    rig_open(&r);
    say_hello(&r);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(port),
                            .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
    struct kept *k = rig_wait(&r, is_syn);
    assert_int_equal(net_get16(k->frame + 36), 22);
    u8 f[128];
    struct tcp h = {.sport = 22,
                    .dport = net_get16(k->frame + 34),
                    .seq = 7000,
                    .ack = get32(k->frame + 38) + 1,
                    .flags = TCP_SYN | TCP_ACK};
    u8 from[4];
    memcpy(from, k->frame + 26, 4);
    send_now(&r, f, frame_tcp(f, from, &h, NULL, 0));
    h.seq++;
    h.flags = TCP_ACK;
    send_now(&r, f, frame_tcp(f, from, &h, "SSH-2.0", 7));
    turn_until_readable(&r, s);
    char buf[16];
    assert_int_equal(recv(s, buf, sizeof(buf), 0), 7);
    assert_memory_equal(buf, "SSH-2.0", 7);
    close(s);
    rig_free(&r);
}

static void test_forward_udp(void **state)
{
    struct rig r;
    u16 port = free_port(SOCK_DGRAM), own;
    open_user(&r, "user,restrict");
    add_forward(&r, port, 53, "/udp");
    rig_open(&r);
    say_hello(&r);
    int s = host_socket(SOCK_DGRAM, &own);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(port),
                            .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    assert_int_equal(sendto(s, "query", 5, 0, (struct sockaddr *)&a, sizeof(a)), 5);
    struct kept *k = rig_wait(&r, is_udp);
    assert_int_equal(net_get16(k->frame + 36), 53);
    assert_memory_equal(k->frame + 42, "query", 5);
    u8 f[128], from[4];
    memcpy(from, k->frame + 26, 4);
    u16 back = net_get16(k->frame + 34);
    send_now(&r, f, frame_udp(f, from, 53, back, "answer", 6)); /* restricted, but it was asked */
    turn_until_readable(&r, s);
    char buf[16];
    assert_int_equal(recv(s, buf, sizeof(buf), 0), 6);
    send_now(&r, f, frame_udp(f, from, 54, back, "other", 5)); /* from another port: no */
    for (unsigned i = 0; i < 5; i++)
        rig_turn(&r, 5);
    assert_int_equal(recv(s, buf, sizeof(buf), 0), -1);
    close(s);
    rig_free(&r);
}

static void port_taken(int type, const char *tail)
{
    struct rig r;
    u16 port;
    struct err e = {""};
    int s = host_socket(type, &port);
    open_user(&r, "user");
    add_forward(&r, port, 22, tail);
    assert_null(net_open(&r.cfg, &r.loop, &r.clock, NULL, &e));
    char number[8];
    snprintf(number, sizeof(number), "%u", port);
    assert_non_null(strstr(e.msg, number));
    assert_non_null(strstr(e.msg, strerror(EADDRINUSE)));
    close(s);
    rig_free(&r);
}

static void test_port_taken(void **state)
{
    port_taken(SOCK_STREAM, "");
    port_taken(SOCK_DGRAM, "/udp");
}

/* Two machines want the same port. */
static void test_port_taken_by_us(void **state)
{
    static const char *const tails[] = {"", "/udp"};
    for (unsigned i = 0; i < 2; i++) {
        struct rig a, b;
        u16 port = free_port(i ? SOCK_DGRAM : SOCK_STREAM);
        open_user(&a, "user");
        open_user(&b, "user");
        add_forward(&a, port, 22, tails[i]);
        add_forward(&b, port, 22, tails[i]);
        rig_open(&a);
        struct err e = {""};
        assert_null(net_open(&b.cfg, &b.loop, &b.clock, NULL, &e));
        rig_free(&a);
        rig_free(&b);
    }
}

static void test_restrict(void **state)
{
    struct rig r;
    u16 port, udp;
    struct tcp h = {.sport = 5000, .seq = 1, .flags = TCP_SYN};
    int listener = host_socket(SOCK_STREAM, &port), s = host_socket(SOCK_DGRAM, &udp);
    open_user(&r, "user,restrict");
    rig_open(&r);
    say_hello(&r);
    u8 f[128];
    h.dport = port;
    send_now(&r, f, frame_tcp(f, gateway_ip, &h, NULL, 0));
    struct kept *k = rig_wait(&r, is_rst); /* at once, not after a time-out */
    assert_true(sums_right(k->frame, k->len));
    assert_int_equal(get32(k->frame + 42), 2);
    assert_memory_equal(k->frame + 26, gateway_ip, 4);
    send_now(&r, f, frame_udp(f, gateway_ip, 4000, udp, "out", 3));
    for (unsigned i = 0; i < 5; i++)
        rig_turn(&r, 5);
    char buf[16];
    assert_int_equal(recv(s, buf, sizeof(buf), 0), -1);
    assert_int_equal(accept(listener, NULL, NULL), -1);
    close(s);
    close(listener);
    rig_free(&r);
}

static void test_allow(void **state)
{
    struct rig r;
    u16 port;
    struct tcp h;
    char spec[32];
    int listener = host_socket(SOCK_STREAM, &port);
    open_user(&r, "user,restrict");
    snprintf(spec, sizeof(spec), "localhost:%u", port);
    assert_int_equal(net_config_allow(&r.cfg, spec, NULL), 0);
    rig_open(&r);
    say_hello(&r);
    close(connect_out(&r, listener, port, &h));
    close(listener);
    rig_free(&r);
}

/* A guest that takes nothing stops the host's side, and loses nothing. */
static void test_back_pressure(void **state)
{
    struct rig r;
    u16 port;
    struct tcp h;
    int listener = host_socket(SOCK_STREAM, &port);
    open_user(&r, "user");
    rig_open(&r);
    say_hello(&r);
    int s = connect_out(&r, listener, port, &h);
    r.full = true;
    assert_int_equal(send(s, "one", 3, 0), 3);
    rig_wait(&r, is_tcp_data);
    assert_true(r.net->peer_full);
    rig_forget(&r);
    assert_int_equal(send(s, "two", 3, 0), 3);
    for (unsigned i = 0; i < 5; i++)
        rig_turn(&r, 5);
    for (unsigned i = 0; i < r.ngot; i++)
        assert_false(is_tcp_data(r.got[i].frame, r.got[i].len) &&
                     !memcmp(r.got[i].frame + 54, "two", 3));
    r.full = false;
    pthread_mutex_lock(&r.lock);
    net_resume(r.net);
    pthread_mutex_unlock(&r.lock);
    u8 f[128];
    h.ack += 3;
    send_now(&r, f, frame_tcp(f, gateway_ip, &h, NULL, 0));
    rig_forget(&r);
    struct kept *k = rig_wait(&r, is_tcp_data);
    assert_memory_equal(k->frame + 54, "two", 3);
    close(s);
    close(listener);
    rig_free(&r);
}

/* The recorder sees the question before the answer. */
static void test_pcap(void **state)
{
    struct rig r;
    char path[] = "/tmp/popf-test-user-XXXXXX";
    close(mkstemp(path));
    open_user(&r, "user");
    r.cfg.pcap = path;
    rig_open(&r);
    say_hello(&r);
    u8 file[512];
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, file, sizeof(file));
    close(fd);
    unlink(path);
    assert_true(n >= 24 + 16 + 42 + 16 + 42);
    unsigned at = 24;
    while (file[at + 16 + 12] != 8 || file[at + 16 + 13] != 6) /* not libslirp's own first words */
        at += 16 + file[at + 8];
    assert_int_equal(file[at + 16 + 21], 1); /* ARP request */
    rig_free(&r);
}

/* Connections come and go without a descriptor being left behind. */
static void test_no_leak(void **state)
{
    struct rig r;
    u16 port;
    int listener = host_socket(SOCK_STREAM, &port);
    open_user(&r, "user");
    rig_open(&r);
    say_hello(&r);
    int before = -1;
    for (unsigned i = 0; i < 20; i++) {
        struct tcp h;
        int s = connect_out(&r, listener, port, &h);
        u8 f[128];
        h.flags = TCP_RST | TCP_ACK;
        send_now(&r, f, frame_tcp(f, gateway_ip, &h, NULL, 0));
        close(s);
        rig_forget(&r);
        int probe = dup(0);
        assert_true(before < 0 || probe <= before + 1);
        before = before < 0 ? probe : before;
        close(probe);
    }
    close(listener);
    rig_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arp_and_ping), cmocka_unit_test(test_udp),
        cmocka_unit_test(test_tcp),          cmocka_unit_test(test_tcp_offload),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_forward_tcp),
        cmocka_unit_test(test_forward_udp),  cmocka_unit_test(test_port_taken),
        cmocka_unit_test(test_restrict),     cmocka_unit_test(test_port_taken_by_us),
        cmocka_unit_test(test_allow),        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_no_leak),      cmocka_unit_test(test_pcap),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
