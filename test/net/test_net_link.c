/* A cable between two machines, and tap devices. */
#include "rig.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frames.h"

static char dir[64];

static void open_end(struct rig *r)
{
    char spec[128];
    snprintf(spec, sizeof(spec), "socket:%s/cable", dir);
    rig_init(r);
    assert_int_equal(net_config_parse(&r->cfg, spec, NULL), 0);
    rig_open(r);
}

static void turn_both(struct rig *a, struct rig *b)
{
    rig_turn(a, 2);
    rig_turn(b, 2);
}

static void wait_up(struct rig *a, struct rig *b)
{
    for (unsigned i = 0; i < 400 && !(a->up && b->up); i++)
        turn_both(a, b);
    assert_true(a->up && b->up);
}

static int send_to(struct rig *r, u8 *f, size_t len, const struct net_offload *o)
{
    pthread_mutex_lock(&r->lock);
    int full = net_send(r->net, f, len, o);
    net_flush(r->net);
    pthread_mutex_unlock(&r->lock);
    return full;
}

static void test_both_ways(void **state)
{
    struct rig a, b;
    u8 f[128];
    open_end(&a);
    assert_false(a.up);
    size_t n = frame_udp(f, gateway_ip, 1, 2, "hello", 5);
    assert_int_equal(send_to(&a, f, n, NULL), 0); /* into the void */
    open_end(&b);
    assert_true(memcmp(a.cfg.mac, b.cfg.mac, 6) != 0);
    wait_up(&a, &b);
    assert_int_equal(send_to(&a, f, n, NULL), 0);
    assert_int_equal(send_to(&b, f, n - 1, NULL), 0);
    for (unsigned i = 0; i < 100 && !(a.ngot && b.ngot); i++)
        turn_both(&a, &b);
    assert_int_equal(a.ngot, 1);
    assert_int_equal(b.ngot, 1);
    assert_int_equal(b.got[0].len, n);
    assert_int_equal(a.got[0].len, n - 1);
    assert_memory_equal(b.got[0].frame, f, n);
    rig_free(&a);
    rig_free(&b);
}

/* A large segment goes over whole, and is cut only where nobody takes it so. */
static void test_offloads(void **state)
{
    struct rig a, b;
    static u8 f[NET_FRAME_MAX];
    open_end(&a);
    open_end(&b);
    wait_up(&a, &b);
    struct tcp h = {.sport = 1, .dport = 2, .flags = TCP_ACK};
    tcp_header(f + 34, &h);
    size_t n = frame_ip(f, IP_TCP, gateway_ip, 20 + 60000);
    frame_pseudo(f, IP_TCP, 20 + 60000, 16);
    struct net_offload o = {.flags = NET_NEEDS_CSUM,
                            .gso = NET_GSO_TCPV4,
                            .gso_size = 1460,
                            .csum_start = 34,
                            .csum_offset = 16};
    assert_int_equal(send_to(&a, f, n, &o), 0);
    for (unsigned i = 0; i < 100 && !b.ngot; i++)
        turn_both(&a, &b);
    assert_int_equal(b.got[0].len, n);
    assert_memory_equal(&b.got[0].o, &o, sizeof(o));
    rig_forget(&b);
    net_peer_can(b.net, 0);
    assert_int_equal(send_to(&a, f, n, &o), 0);
    for (unsigned i = 0; i < 100 && !b.ngot; i++)
        turn_both(&a, &b);
    assert_int_equal(b.ngot, 42);
    for (unsigned i = 0; i < b.ngot; i++)
        assert_true(sums_right(b.got[i].frame, b.got[i].len));
    rig_free(&a);
    rig_free(&b);
}

/* Either may go and come back. */
static void test_reconnect(void **state)
{
    struct rig a, b, c;
    open_end(&a);
    open_end(&b);
    wait_up(&a, &b);
    rig_free(&a); /* who listened */
    for (unsigned i = 0; i < 100 && b.up; i++)
        rig_turn(&b, 5);
    assert_false(b.up);
    open_end(&c);
    wait_up(&b, &c);
    rig_free(&b);
    for (unsigned i = 0; i < 100 && c.up; i++)
        rig_turn(&c, 5);
    open_end(&a);
    wait_up(&a, &c);
    /* A third one finds nobody, and disturbs nobody. */
    open_end(&b);
    for (unsigned i = 0; i < 100; i++) {
        rig_turn(&b, 2);
        turn_both(&a, &c);
    }
    assert_true(a.up && c.up);
    rig_free(&b);
    rig_free(&a);
    rig_free(&c);
    struct stat st;
    char path[128];
    snprintf(path, sizeof(path), "%s/cable", dir);
    assert_int_equal(stat(path, &st), -1); /* nothing is left behind */
}

/* A machine that was killed leaves its socket lying there. */
static void test_left_behind(void **state)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/cable", dir);
    pid_t pid = fork();
    if (!pid) {
        struct rig r;
        open_end(&r);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    struct rig a, b;
    open_end(&a);
    open_end(&b);
    wait_up(&a, &b);
    rig_free(&a);
    rig_free(&b);
}

/* A full socket stops the sender, who goes on when there is room. */
static void test_back_pressure(void **state)
{
    struct rig a, b;
    static u8 f[60000];
    open_end(&a);
    open_end(&b);
    wait_up(&a, &b);
    frame_eth(f, ETH_IPV4);
    b.full = true; /* takes one, and then no more */
    unsigned sent = 0;
    while (sent < 1000 && !send_to(&a, f, sizeof(f), NULL)) {
        sent++;
        rig_turn(&b, 0);
    }
    assert_true(sent > 1 && sent < 1000);
    assert_int_equal(b.ngot, 1);
    assert_int_equal(a.rooms, 0);
    b.full = false;
    pthread_mutex_lock(&b.lock);
    net_resume(b.net);
    pthread_mutex_unlock(&b.lock);
    for (unsigned i = 0; i < 100 && b.ngot < sent; i++)
        turn_both(&a, &b);
    assert_int_equal(b.ngot, sent);
    rig_turn(&a, 2);
    assert_int_equal(a.rooms, 1);
    assert_int_equal(send_to(&a, f, sizeof(f), NULL), 0);
    rig_free(&a);
    rig_free(&b);
}

static void test_foreign_file(void **state)
{
    char path[128], spec[160];
    snprintf(path, sizeof(path), "%s/precious", dir);
    snprintf(spec, sizeof(spec), "socket:%s", path);
    fclose(fopen(path, "w"));
    struct rig r;
    struct err e = {""};
    rig_init(&r);
    assert_int_equal(net_config_parse(&r.cfg, spec, NULL), 0);
    assert_null(net_open(&r.cfg, &r.loop, &r.clock, NULL, &e));
    assert_non_null(strstr(e.msg, path));
    struct stat st;
    assert_int_equal(stat(path, &st), 0); /* no file of somebody's is removed */
    unlink(path);
    rig_free(&r);
}

/* --- tap, in a network namespace of its own --- */

static bool own_network(void)
{
    return !unshare(CLONE_NEWNET) || !unshare(CLONE_NEWUSER | CLONE_NEWNET);
}

static void bring_up(const char *name)
{
    struct ifreq r = {0};
    strcpy(r.ifr_name, name);
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    ioctl(s, SIOCGIFFLAGS, &r);
    r.ifr_flags |= IFF_UP;
    assert_int_equal(ioctl(s, SIOCSIFFLAGS, &r), 0);
    close(s);
}

static bool any_frame(const u8 *f, size_t len)
{
    return len >= NET_ETH_HLEN;
}

static void test_tap(void **state)
{
    struct rig r;
    struct err e = {""};
    rig_init(&r);
    assert_int_equal(net_config_parse(&r.cfg, "tap:popf0", NULL), 0);
    bool own = own_network();
    r.net = own ? net_open(&r.cfg, &r.loop, &r.clock, NULL, &e) : NULL;
    if (!r.net) {
        assert_true(!own || strstr(e.msg, "popf0"));
        rig_free(&r);
        skip();
    }
    net_attach(r.net, &rig_peer, &r);
    net_peer_can(r.net, NET_CAN_CSUM | NET_CAN_TSO4);
    bring_up("popf0");
    rig_wait(&r, any_frame); /* the host looks for its neighbours */
    u8 f[64];
    assert_int_equal(send_to(&r, f, frame_arp_request(f, gateway_ip), NULL), 0);
    rig_free(&r);
}

static int make_dir(void **state)
{
    strcpy(dir, "/tmp/popf-test-link-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    return rmdir(dir); /* everybody has cleaned up */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),     cmocka_unit_test(test_offloads),
        cmocka_unit_test(test_reconnect),     cmocka_unit_test(test_left_behind),
        cmocka_unit_test(test_back_pressure), cmocka_unit_test(test_foreign_file),
        cmocka_unit_test(test_tap),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
