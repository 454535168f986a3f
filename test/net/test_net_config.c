/* What people write after --net, -p and --allow. */
#include "rig.h"

#include <arpa/inet.h>

static struct net_config parsed(const char *spec)
{
    struct net_config c = NET_CONFIG_INIT;
    struct err e = {""};
    if (net_config_parse(&c, spec, &e))
        fail_msg("%s: %s", spec, e.msg);
    return c;
}

static void test_kinds(void **state)
{
    assert_int_equal(parsed("none").kind, NET_NONE);
    assert_int_equal(parsed("user").kind, NET_USER);
    struct net_config c = parsed("tap:tap0,mac=52:54:00:aB:cd:ef,mtu=9000");
    assert_int_equal(c.kind, NET_TAP);
    assert_string_equal(c.name, "tap0");
    assert_true(c.has_mac);
    assert_memory_equal(c.mac, "\x52\x54\x00\xab\xcd\xef", 6);
    assert_int_equal(c.mtu, 9000);
    c = parsed("socket:/run/a b:c,restrict");
    assert_int_equal(c.kind, NET_SOCKET);
    assert_string_equal(c.name, "/run/a b:c");
    assert_true(c.restricted);
    assert_false(parsed("user").restricted);
}

static void test_bad_kinds(void **state)
{
    static const char *const bad[] = {"",
                                      "users",
                                      "tap",
                                      "tap:",
                                      "tap:a-name-that-is-long",
                                      "socket:",
                                      "user,",
                                      "user,restric",
                                      "user,mac=52:54:00:ab:cd",
                                      "user,mac=01:00:00:00:00:01",
                                      "user,mac=00:00:00:00:00:00",
                                      "user,mac=52-54-00-ab-cd-ef",
                                      "user,mtu=67",
                                      "user,mtu=65521",
                                      "user,mtu=",
                                      "none,x"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct net_config c = NET_CONFIG_INIT;
        struct err e = {""};
        if (!net_config_parse(&c, bad[i], &e))
            fail_msg("\"%s\" was taken", bad[i]);
        assert_true(e.msg[0]);
    }
    char path[300] = "socket:/";
    memset(path + 8, 'x', 200);
    struct net_config c = NET_CONFIG_INIT;
    assert_int_equal(net_config_parse(&c, path, NULL), -1);
}

static void test_forwards(void **state)
{
    struct net_config c = NET_CONFIG_INIT;
    assert_int_equal(net_config_forward(&c, "2222:22", NULL), 0);
    assert_int_equal(net_config_forward(&c, "0.0.0.0:8080:80/tcp", NULL), 0);
    assert_int_equal(net_config_forward(&c, "127.0.0.2:53:5353/udp", NULL), 0);
    assert_int_equal(c.nforward, 3);
    assert_int_equal(c.forward[0].addr, htonl(INADDR_LOOPBACK));
    assert_int_equal(c.forward[0].host, 2222);
    assert_int_equal(c.forward[0].guest, 22);
    assert_false(c.forward[0].udp);
    assert_int_equal(c.forward[1].addr, 0);
    assert_false(c.forward[1].udp);
    assert_int_equal(c.forward[2].addr, htonl(0x7f000002));
    assert_int_equal(c.forward[2].guest, 5353);
    assert_true(c.forward[2].udp);
    /* the same again, and what only looks so */
    assert_int_equal(net_config_forward(&c, "2222:23", NULL), -1);
    assert_int_equal(net_config_forward(&c, "2222:23/udp", NULL), 0);
    assert_int_equal(net_config_forward(&c, "127.0.0.3:2222:23", NULL), 0);
}

static void test_bad_forwards(void **state)
{
    static const char *const bad[] = {
        "",         "22",     "22:",        ":22",       "0:22",          "22:0",      "65536:22",
        "22:65536", "a:22",   "22:22/sctp", "22:22/",    "1.2.3:22:22",   "::1:22:22", "-1:22",
        " 22:22",   "22 :22", ":22:22",     "22:22/UDP", "022222222222:1"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct net_config c = NET_CONFIG_INIT;
        struct err e = {""};
        if (!net_config_forward(&c, bad[i], &e))
            fail_msg("\"%s\" was taken", bad[i]);
        assert_non_null(strstr(e.msg, "-p"));
    }
}

static void test_forwards_run_out(void **state)
{
    struct net_config c = NET_CONFIG_INIT;
    char spec[32];
    for (unsigned i = 0; i < NET_FORWARDS_MAX; i++) {
        snprintf(spec, sizeof(spec), "%u:22", 1000 + i);
        assert_int_equal(net_config_forward(&c, spec, NULL), 0);
    }
    assert_int_equal(net_config_forward(&c, "22:22", NULL), -1);
}

static void test_allow(void **state)
{
    static const u8 gateway[4] = {10, 0, 2, 2}, other[4] = {192, 0, 2, 1};
    struct net_config c = NET_CONFIG_INIT;
    assert_int_equal(net_config_allow(&c, "Mirror.Example.:80", NULL), 0);
    assert_string_equal(c.allow[0].host, "mirror.example");
    assert_int_equal(c.allow[0].port, 80);
    assert_int_equal(net_config_allow(&c, "192.0.2.1:443", NULL), 0);
    assert_string_equal(c.allow[1].host, "");
    assert_memory_equal(c.allow[1].addr, other, 4);
    assert_int_equal(net_config_allow(&c, "localhost:1", NULL), 0);
    assert_memory_equal(c.allow[2].addr, gateway, 4);
    assert_int_equal(net_config_allow(&c, "127.0.0.1:2", NULL), 0);
    assert_memory_equal(c.allow[3].addr, gateway, 4);
    assert_int_equal(net_config_allow(&c, "[2001:db8::1]:3", NULL), 0);
    assert_true(c.allow[4].v6);
    assert_int_equal(c.allow[4].addr[15], 1);
    static const char *const bad[] = {"",         "a",       "a:",    "a:0",    ":80",
                                      "1.2.3:80", "a..b:80", ".a:80", "a b:80", "[::1:80",
                                      "::1:80",   "a/b:80",  "*.a:80"};
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        if (!net_config_allow(&c, bad[i], NULL))
            fail_msg("\"%s\" was taken", bad[i]);
}

static void refused(struct net_config *c, const char *why)
{
    struct rig r;
    struct err e = {""};
    rig_init(&r);
    assert_null(net_open(c, &r.loop, &r.clock, NULL, &e));
    if (!strstr(e.msg, why))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
    rig_free(&r);
}

static void test_combinations(void **state)
{
    struct net_config c = parsed("socket:/nowhere/x");
    net_config_forward(&c, "1:1", NULL);
    refused(&c, "--net user");
    c = parsed("user");
    net_config_allow(&c, "a:1", NULL);
    refused(&c, "restrict");
    c = parsed("socket:/nowhere/x");
    refused(&c, "/nowhere/x");
    c = parsed("user");
    c.pcap = "/nowhere/x.pcap";
    refused(&c, "/nowhere/x.pcap");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),        cmocka_unit_test(test_bad_kinds),
        cmocka_unit_test(test_forwards),     cmocka_unit_test(test_bad_forwards),
        cmocka_unit_test(test_allow),        cmocka_unit_test(test_forwards_run_out),
        cmocka_unit_test(test_combinations),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
