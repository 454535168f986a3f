/* Checksums, segmentation, the recorder, and the filter of restricted guests. */
#include "rig.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frames.h"
#include "net/net_filter.h"
#include "net/net_gso.h"
#include "net/net_merge.h"
#include "net/net_pcap.h"

/* --- checksums --- */

/* RFC 1071, 3: the example; and against the definition, a byte at a time. */
static void test_checksum(void **state)
{
    static const u8 rfc[8] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    assert_int_equal(net_csum_add(0, rfc, 8), 0xf2dd); /* ddf2 in memory order */
    static u8 buf[3000];
    for (unsigned i = 0; i < sizeof(buf); i++)
        buf[i] = (u8)(0xff - i * 37 % 7);
    for (unsigned n = 0; n < sizeof(buf); n += 1 + n / 7) {
        u32 sum = 0;
        for (unsigned i = 0; i < n; i++)
            sum += (u32)buf[i] << (i & 1 ? 8 : 0);
        while (sum >> 16)
            sum = (sum & 0xffff) + (sum >> 16);
        assert_int_equal(net_csum_add(0, buf, n), sum);
    }
}

static void test_checksum_bounds(void **state)
{
    u8 f[40] = {0};
    assert_false(net_csum_finish(f, 40, 40, 0));
    assert_false(net_csum_finish(f, 40, 39, 0));
    assert_false(net_csum_finish(f, 40, 20, 19));
    assert_true(net_csum_finish(f, 40, 20, 18));
    assert_memory_equal(f + 38, "\xff\xff", 2);
}

/* --- segmentation --- */

struct cut {
    unsigned n;
    size_t at;
    u32 seq;
    u16 id;
    const u8 *whole;
    unsigned head;
    size_t len;
};

static bool check_segment(void *arg, u8 *f, size_t len)
{
    struct cut *c = arg;
    struct net_packet p;
    assert_true(net_packet_parse(f, len, &p));
    assert_true(sums_right(f, len));
    assert_int_equal(p.l4_len + (unsigned)(p.l4 - f), len);
    assert_int_equal(get32(p.l4 + 4), c->seq);
    assert_memory_equal(f + c->head, c->whole + c->at, len - c->head);
    if (!p.v6)
        assert_int_equal(net_get16(f + 18), (u16)(c->id + c->n));
    c->at += len - c->head;
    c->seq += (u32)(len - c->head);
    bool last = c->at == c->len;
    assert_int_equal(p.tcp_flags & 9, last ? 9 : 0); /* FIN, PSH */
    assert_int_equal(p.tcp_flags & 0x80, c->n ? 0 : 0x80);
    c->n++;
    return true;
}

static void cut(bool v6)
{
    static u8 f[NET_FRAME_MAX], buf[NET_FRAME_MAX];
    static const u8 to6[16] = {0xfe, 0xc0, [15] = 2};
    unsigned head = v6 ? 74 : 54;
    const size_t data = 10001;
    for (size_t i = 0; i < data; i++)
        f[head + i] = (u8)(i * 5 + i / 256);
    struct tcp h = {
        .sport = 1, .dport = 2, .seq = 0xfffff000, .ack = 3, .flags = 0x80 | TCP_ACK | 9};
    tcp_header(f + head - 20, &h);
    size_t n =
        v6 ? frame_ip6(f, IP_TCP, to6, 20 + data) : frame_ip(f, IP_TCP, gateway_ip, 20 + data);
    if (!v6)
        net_put16(f + 18, 0xfffe);
    frame_pseudo(f, IP_TCP, 20 + data, 16);
    struct net_offload o = {.flags = NET_NEEDS_CSUM,
                            .gso = v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4,
                            .gso_size = 1400,
                            .csum_start = (u16)(head - 20),
                            .csum_offset = 16};
    struct cut c = {
        .seq = 0xfffff000, .id = 0xfffe, .whole = f, .head = head, .at = head, .len = n};
    assert_true(net_gso_cut(f, n, &o, buf, check_segment, &c));
    assert_int_equal(c.n, 8);
    assert_int_equal(c.at, n);
    /* Headers that are not what the record says. */
    struct net_gso g;
    o.gso = v6 ? NET_GSO_TCPV4 : NET_GSO_TCPV6;
    assert_false(net_gso_parse(f, n, &o, &g));
    o.gso = v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4;
    for (unsigned len = 0; len < head; len++)
        assert_false(net_gso_parse(f, len, &o, &g));
    o.gso_size = 65535;
    assert_false(net_gso_parse(f, n, &o, &g));
    o.gso_size = 1400;
    f[head - 20 + 12] = 0x40;
    assert_false(net_gso_parse(f, n, &o, &g));
}

static void test_cut(void **state)
{
    cut(false);
    cut(true);
}

/* --- putting segments together --- */

#define SEGMENT 1000

/* The i-th segment of a row; returns its length. */
static size_t segment(u8 *f, unsigned i, size_t len, u8 flags)
{
    u8 data[SEGMENT];
    memset(data, (int)i, sizeof(data));
    struct tcp h = {
        .sport = 1, .dport = 2, .seq = 0xffffff00 + i * SEGMENT, .ack = 3, .flags = flags};
    return frame_tcp(f, gateway_ip, &h, data, len);
}

static void no_backend(struct net *n)
{
}

static void test_merge(void **state)
{
    static const struct net_ops none = {.resume = no_backend};
    static struct net_merge m;
    static struct rig r;
    u8 f[SEGMENT + 100];
    struct net n;
    assert_int_equal(net_init(&n, &none, NULL, NULL), 0);
    net_attach(&n, &rig_peer, &r);
    net_peer_can(&n, NET_CAN_CSUM | NET_CAN_TSO4);
    net_merge_flush(&m, &n);
    assert_int_equal(r.ngot, 0);
    for (unsigned i = 0; i < 5; i++)
        assert_true(net_merge_add(&m, f, segment(f, i, i < 4 ? SEGMENT : 10, TCP_ACK)));
    assert_false(
        net_merge_add(&m, f, segment(f, 5, SEGMENT, TCP_ACK))); /* a short one is the last */
    net_merge_flush(&m, &n);
    assert_int_equal(r.ngot, 1);
    const struct kept *k = &r.got[0];
    assert_int_equal(k->len, 54 + 4 * SEGMENT + 10);
    assert_int_equal(k->o.gso, NET_GSO_TCPV4);
    assert_int_equal(k->o.gso_size, SEGMENT);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(k->frame[54 + i * SEGMENT], i);
    assert_true(net_csum_finish(k->frame, k->len, k->o.csum_start, k->o.csum_offset));
    assert_true(sums_right(k->frame, k->len));
    /* One alone stays as it is. */
    size_t len = segment(f, 0, SEGMENT, TCP_ACK);
    assert_true(net_merge_add(&m, f, len));
    net_merge_flush(&m, &n);
    assert_int_equal(r.got[1].o.gso, 0);
    assert_memory_equal(r.got[1].frame, f, len);
    /* As many as an IP packet holds. */
    unsigned i = 0;
    while (net_merge_add(&m, f, segment(f, i, SEGMENT, TCP_ACK)))
        i++;
    assert_int_equal(i, (65535 - 40) / SEGMENT);
    net_merge_flush(&m, &n);
    rig_forget(&r);
    net_uninit(&n);
}

/* What does not follow what is there, or is no plain segment. */
static void test_merge_not(void **state)
{
    static const u8 at[] = {0, 12, 14, 15, 20, 21, 23, 26, 30, 34, 36, 38, 42, 46, 47, 48};
    static struct net_merge m;
    u8 f[SEGMENT + 100];
    for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
        m.len = 0;
        assert_true(net_merge_add(&m, f, segment(f, 0, SEGMENT, TCP_ACK)));
        size_t len = segment(f, 1, SEGMENT, TCP_ACK);
        f[at[i]] ^= 1;
        if (net_merge_add(&m, f, len))
            fail_msg("byte %u may differ", at[i]);
    }
    m.len = 0;
    assert_true(net_merge_add(&m, f, segment(f, 0, SEGMENT, TCP_ACK)));
    assert_true(net_merge_add(&m, f, segment(f, 1, SEGMENT, TCP_ACK | 8))); /* PSH ends it */
    assert_false(net_merge_add(&m, f, segment(f, 2, SEGMENT, TCP_ACK)));
    assert_false(net_merge_can_start(f, segment(f, 0, 0, TCP_ACK)));
    assert_false(net_merge_can_start(f, segment(f, 0, 10, TCP_ACK | TCP_FIN)));
    assert_false(net_merge_can_start(f, segment(f, 0, 10, TCP_SYN)));
    size_t len = segment(f, 0, 10, TCP_ACK);
    assert_true(net_merge_can_start(f, len));
    assert_false(net_merge_can_start(f, len + 1)); /* padded */
    for (size_t n = 0; n < len; n++)
        assert_false(net_merge_can_start(f, n));
}

/* --- the recorder --- */

static void test_pcap(void **state)
{
    char path[] = "/tmp/popf-test-pcap-XXXXXX";
    close(mkstemp(path));
    struct net_pcap *p = net_pcap_open(path, NULL, NULL);
    assert_non_null(p);
    u8 f[128], whole[128];
    size_t n = frame_udp(f, gateway_ip, 1, 2, "payload", 7);
    memcpy(whole, f, n);
    frame_pseudo(f, IP_UDP, 15, 6);
    struct net_offload o = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
    net_pcap_write(p, f, n, &o);
    net_pcap_write(p, whole, 42, NULL);
    u8 file[512];
    FILE *in = fopen(path, "rb"); /* before it is closed: it is complete all the time */
    assert_int_equal(fread(file, 1, sizeof(file), in), 24 + 16 + n + 16 + 42);
    fclose(in);
    u32 head[6];
    memcpy(head, file, 24);
    assert_int_equal(head[0], 0xa1b23c4d);
    assert_int_equal(head[1], 4 << 16 | 2);
    assert_int_equal(head[5], 1);
    memcpy(head, file + 24, 16);
    assert_true(head[0] >= 1600000000 && head[1] < 1000000000);
    assert_int_equal(head[2], n);
    assert_int_equal(head[3], n);
    assert_memory_equal(file + 40, whole, n); /* with its checksum */
    memcpy(head, file + 40 + n, 16);
    assert_int_equal(head[2], 42);
    struct stat st;
    stat(path, &st);
    assert_int_equal(st.st_mode & 077, 0); /* it may hold secrets */
    net_pcap_close(p);
    unlink(path);
}

/* --- the filter --- */

static const u8 dns_ip[4] = {10, 0, 2, 3}, far_ip[4] = {192, 0, 2, 9};

static struct net_filter *filter(void)
{
    static struct net_filter f;
    struct net_config c = NET_CONFIG_INIT;
    net_config_allow(&c, "192.0.2.9:443", NULL);
    net_config_allow(&c, "deb.example.org:80", NULL);
    net_config_allow(&c, "deb.example.org:8080", NULL);
    net_config_allow(&c, "[2001:db8::1]:443", NULL);
    net_config_forward(&c, "5353:53/udp", NULL);
    net_filter_init(&f, &c);
    return &f;
}

static bool syn_passes(struct net_filter *f, const u8 dst[4], u16 port, u8 flags)
{
    u8 b[128];
    struct tcp h = {.sport = 9, .dport = port, .flags = flags};
    return net_filter_out(f, b, frame_tcp(b, dst, &h, NULL, 0));
}

static bool udp_passes(struct net_filter *f, const u8 dst[4], u16 sport, u16 dport)
{
    u8 b[128];
    return net_filter_out(f, b, frame_udp(b, dst, sport, dport, "x", 1));
}

static void test_filter(void **state)
{
    static const u8 all[4] = {255, 255, 255, 255};
    struct net_filter *f = filter();
    assert_true(syn_passes(f, far_ip, 443, TCP_SYN));
    assert_false(syn_passes(f, far_ip, 444, TCP_SYN));
    assert_false(syn_passes(f, gateway_ip, 443, TCP_SYN));
    assert_false(syn_passes(f, dns_ip, 53, TCP_SYN));
    assert_true(syn_passes(f, far_ip, 444, TCP_ACK));         /* libslirp answers it with a reset */
    assert_false(syn_passes(f, far_ip, 444, TCP_SYN | 0x48)); /* PSH, ECE */
    assert_true(udp_passes(f, far_ip, 1, 443));
    assert_false(udp_passes(f, far_ip, 1, 53));
    assert_true(udp_passes(f, all, 68, 67));
    assert_true(udp_passes(f, gateway_ip, 68, 67));
    assert_false(udp_passes(f, far_ip, 68, 67));
    assert_false(udp_passes(f, gateway_ip, 1, 69));
    assert_false(udp_passes(f, dns_ip, 1, 53)); /* not a question */
    u8 b[128];
    assert_true(net_filter_out(f, b, frame_arp_request(b, gateway_ip)));
    b[34] = 8;
    assert_true(net_filter_out(f, b, frame_ip(b, IP_ICMP, gateway_ip, 8)));
    assert_false(net_filter_out(f, b, frame_ip(b, IP_ICMP, far_ip, 8)));
    assert_false(net_filter_out(f, b, frame_ip(b, 47, far_ip, 8)));
}

/* Whatever hides where a packet goes does not pass. */
static void test_filter_tricks(void **state)
{
    struct net_filter *f = filter();
    struct tcp h = {.sport = 9, .dport = 443, .flags = TCP_SYN};
    u8 b[128];
    size_t n = frame_tcp(b, far_ip, &h, NULL, 0);
    assert_true(net_filter_out(f, b, n));
    static const struct {
        u8 at, value;
    } tricks[] = {{20, 0x20}, {21, 1},  {14, 0x46}, {14, 0x44}, {14, 0x65},
                  {16, 0xff}, {17, 10}, {12, 0x81}, {12, 0x88}, {23, 41}};
    for (unsigned i = 0; i < ARRAY_SIZE(tricks); i++) {
        frame_tcp(b, far_ip, &h, NULL, 0);
        b[tricks[i].at] = tricks[i].value;
        if (net_filter_out(f, b, n))
            fail_msg("byte %u = %#x passes", tricks[i].at, tricks[i].value);
    }
    frame_tcp(b, far_ip, &h, NULL, 0);
    for (size_t len = 0; len < n; len++)
        assert_false(net_filter_out(f, b, len));
}

static void test_filter_v6(void **state)
{
    static const u8 far6[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1};
    static const u8 gate6[16] = {0xfe, 0xc0, [15] = 2}, all6[16] = {0xff, 0x02, [15] = 1};
    struct net_filter *f = filter();
    u8 b[128];
    struct tcp h = {.sport = 9, .dport = 443, .flags = TCP_SYN};
    tcp_header(b + 54, &h);
    assert_true(net_filter_out(f, b, frame_ip6(b, IP_TCP, far6, 20)));
    assert_false(net_filter_out(f, b, frame_ip6(b, IP_TCP, gate6, 20)));
    assert_false(net_filter_out(f, b, frame_ip6(b, 0, far6, 20))); /* extension headers */
    assert_false(net_filter_out(f, b, frame_ip6(b, 44, far6, 20)));
    h.dport = 80;
    tcp_header(b + 54, &h);
    assert_false(net_filter_out(f, b, frame_ip6(b, IP_TCP, far6, 20)));
    memset(b + 54, 0, 24);
    b[54] = 135; /* neighbour solicitation */
    assert_true(net_filter_out(f, b, frame_ip6(b, IP_ICMPV6, all6, 24)));
    b[54] = 128;
    assert_false(net_filter_out(f, b, frame_ip6(b, IP_ICMPV6, far6, 24)));
    assert_true(net_filter_out(f, b, frame_ip6(b, IP_ICMPV6, gate6, 24)));
}

/* A question for `name`, in labels; returns its length. */
static size_t question(u8 *m, const char *name, u16 type)
{
    static const u8 head[12] = {0x12, 0x34, 1, 0, 0, 1};
    memcpy(m, head, 12);
    size_t n = 12;
    for (;;) {
        size_t label = strcspn(name, ".");
        m[n++] = (u8)label;
        memcpy(m + n, name, label);
        n += label;
        if (!name[label])
            break;
        name += label + 1;
    }
    m[n++] = 0;
    net_put16(m + n, type);
    net_put16(m + n + 2, 1);
    return n + 4;
}

static bool may_ask(struct net_filter *f, const char *name, u16 type)
{
    u8 m[300], b[400];
    size_t n = question(m, name, type);
    return net_filter_out(f, b, frame_udp(b, dns_ip, 999, 53, m, n));
}

/* The name server answers with an alias and an address. */
static void answer(struct net_filter *f, const char *name, const u8 addr[4], const u8 from[4])
{
    static const u8 alias[] = {0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, 'x', 0xc0, 12};
    static const u8 a[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4};
    u8 m[400], b[512];
    size_t n = question(m, name, 1);
    m[2] |= 0x80;
    m[7] = 2;
    memcpy(m + n, alias, sizeof(alias));
    n += sizeof(alias);
    memcpy(m + n, a, sizeof(a));
    n += sizeof(a);
    memcpy(m + n, addr, 4);
    n += 4;
    size_t len = frame_udp(b, guest_ip, 53, 999, m, n);
    memcpy(b + 26, from, 4);
    net_filter_in(f, b, len);
    for (size_t cut = 0; cut < len; cut++) /* a damaged one does no harm */
        net_filter_in(f, b, cut);
}

static void test_filter_dns(void **state)
{
    static const u8 addr[4] = {198, 51, 100, 7}, host[4] = {127, 0, 0, 1};
    struct net_filter *f = filter();
    assert_true(may_ask(f, "deb.example.org", 1));
    assert_true(may_ask(f, "DEB.Example.org", 28));
    assert_false(may_ask(f, "deb.example.org", 16));
    assert_false(may_ask(f, "secret.deb.example.org", 1));
    assert_false(may_ask(f, "example.org", 1));
    assert_false(may_ask(f, "deb.example.orgx", 1));
    assert_false(syn_passes(f, addr, 80, TCP_SYN));
    answer(f, "other.example.org", addr, dns_ip);
    assert_false(syn_passes(f, addr, 80, TCP_SYN));
    answer(f, "deb.example.org", addr, far_ip); /* not from the name server */
    assert_false(syn_passes(f, addr, 80, TCP_SYN));
    answer(f, "deb.example.org", addr, dns_ip);
    assert_true(syn_passes(f, addr, 80, TCP_SYN));
    assert_true(syn_passes(f, addr, 8080, TCP_SYN));
    assert_false(syn_passes(f, addr, 443, TCP_SYN));
    answer(f, "deb.example.org", host, dns_ip); /* no name means the host */
    assert_false(syn_passes(f, host, 80, TCP_SYN));
    for (unsigned i = 0; i < 1000; i++) {
        const u8 many[4] = {198, 18, i >> 8, (u8)i};
        answer(f, "deb.example.org", many, dns_ip);
        assert_true(syn_passes(f, many, 80, TCP_SYN));
    }
    /* One label with dots in it is another name. */
    u8 m[64], b[128];
    size_t n = question(m, "deb.example.org", 1);
    m[12] = 15;
    m[28] = 0;
    assert_false(net_filter_out(f, b, frame_udp(b, dns_ip, 999, 53, m, n)));
}

/* Who came in through a forwarded port may be answered, from that port. */
static void test_filter_flows(void **state)
{
    struct net_filter *f = filter();
    u8 b[128];
    assert_false(udp_passes(f, far_ip, 53, 4444));
    size_t n = frame_udp(b, guest_ip, 4444, 53, "q", 1);
    memcpy(b + 26, far_ip, 4);
    net_filter_in(f, b, n);
    assert_true(udp_passes(f, far_ip, 53, 4444));
    assert_false(udp_passes(f, far_ip, 54, 4444));
    assert_false(udp_passes(f, far_ip, 53, 4445));
    n = frame_udp(b, guest_ip, 4444, 99, "q", 1); /* not a forwarded port */
    memcpy(b + 26, far_ip, 4);
    net_filter_in(f, b, n);
    assert_false(udp_passes(f, far_ip, 99, 4444));
    /* The name server is no such peer. */
    n = frame_udp(b, guest_ip, 53, 53, "q", 1);
    memcpy(b + 26, dns_ip, 4);
    net_filter_in(f, b, n);
    assert_false(udp_passes(f, dns_ip, 53, 53));
}

static void test_refusals(void **state)
{
    u8 m[300], b[512];
    size_t n = frame_udp(b, dns_ip, 999, 53, m, question(m, "no.example.org", 1));
    size_t len = net_filter_refuse(b, n);
    assert_int_equal(len, n);
    assert_true(sums_right(b, len));
    assert_memory_equal(b + 26, dns_ip, 4);
    assert_memory_equal(b, guest_mac, 6);
    assert_int_equal(net_get16(b + 36), 999);
    assert_int_equal(b[44] & 0x80, 0x80);
    assert_int_equal(b[45] & 15, 5);
    for (size_t cut = 0; cut < n; cut++) {
        frame_udp(b, dns_ip, 999, 53, m, question(m, "no.example.org", 1));
        assert_int_equal(net_filter_refuse(b, cut), 0);
    }
    struct tcp h = {.sport = 9, .dport = 443, .flags = TCP_ACK};
    assert_int_equal(net_filter_refuse(b, frame_tcp(b, far_ip, &h, NULL, 0)), 0);
    assert_int_equal(net_filter_refuse(b, frame_udp(b, far_ip, 1, 2, "x", 1)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checksum),     cmocka_unit_test(test_checksum_bounds),
        cmocka_unit_test(test_cut),          cmocka_unit_test(test_merge),
        cmocka_unit_test(test_merge_not),    cmocka_unit_test(test_pcap),
        cmocka_unit_test(test_filter),       cmocka_unit_test(test_filter_tricks),
        cmocka_unit_test(test_filter_v6),    cmocka_unit_test(test_filter_dns),
        cmocka_unit_test(test_filter_flows), cmocka_unit_test(test_refusals),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
