/*
 * frames.h - Ethernet frames built by hand.
 */
#ifndef POPF_TEST_NET_FRAMES_H
#define POPF_TEST_NET_FRAMES_H

#include <string.h>

#include "net/net_csum.h"
#include "net/net_packet.h"

static const u8 guest_mac[6] = {0x52, 0x50, 0x46, 0, 0, 1};
static const u8 gateway_mac[6] = {0x52, 0x55, 10, 0, 2, 2};
static const u8 guest_ip[4] = {10, 0, 2, 15};
static const u8 gateway_ip[4] = {10, 0, 2, 2};

struct tcp {
    u16 sport, dport;
    u32 seq, ack;
    u8 flags;
};

static inline void put32(u8 *p, u32 v)
{
    net_put16(p, v >> 16);
    net_put16(p + 2, (u16)v);
}

static inline u32 get32(const u8 *p)
{
    return (u32)net_get16(p) << 16 | net_get16(p + 2);
}

static inline void frame_eth(u8 *f, u16 type)
{
    memcpy(f, gateway_mac, 6);
    memcpy(f + 6, guest_mac, 6);
    net_put16(f + 12, type);
}

/* Puts Ethernet and IPv4 headers before `len` bytes at f + 34. Returns the frame's length. */
static inline size_t frame_ip(u8 *f, u8 proto, const u8 dst[4], size_t len)
{
    u8 *ip = f + 14;
    frame_eth(f, ETH_IPV4);
    memset(ip, 0, 20);
    ip[0] = 0x45;
    net_put16(ip + 2, (u16)(20 + len));
    ip[8] = 64;
    ip[9] = proto;
    memcpy(ip + 12, guest_ip, 4);
    memcpy(ip + 16, dst, 4);
    u16 sum = (u16)~net_csum_add(0, ip, 20);
    memcpy(ip + 10, &sum, 2);
    return 34 + len;
}

static inline size_t frame_ip6(u8 *f, u8 proto, const u8 dst[16], size_t len)
{
    u8 *ip = f + 14;
    frame_eth(f, ETH_IPV6);
    memset(ip, 0, 40);
    ip[0] = 0x60;
    net_put16(ip + 4, (u16)len);
    ip[6] = proto;
    ip[7] = 64;
    ip[8] = 0xfe;
    ip[9] = 0xc0;
    ip[23] = 0x15;
    memcpy(ip + 24, dst, 16);
    return 54 + len;
}

/* The pseudo-header's sum, as drivers leave it for NET_NEEDS_CSUM. */
static inline void frame_pseudo(u8 *f, u8 proto, size_t l4_len, unsigned sum_at)
{
    unsigned l4 = net_get16(f + 12) == ETH_IPV6 ? 54 : 34;
    u16 sum = net_csum_pseudo(f + 14, proto, (u32)l4_len);
    memcpy(f + l4 + sum_at, &sum, 2);
}

static inline void tcp_header(u8 *t, const struct tcp *h)
{
    memset(t, 0, 20);
    net_put16(t, h->sport);
    net_put16(t + 2, h->dport);
    put32(t + 4, h->seq);
    put32(t + 8, h->ack);
    t[12] = 5 << 4;
    t[13] = h->flags;
    net_put16(t + 14, 65535);
}

/* TCP over IPv4 with checksums. */
static inline size_t frame_tcp(u8 *f, const u8 dst[4], const struct tcp *h, const void *data,
                               size_t len)
{
    tcp_header(f + 34, h);
    if (len)
        memcpy(f + 54, data, len);
    size_t n = frame_ip(f, IP_TCP, dst, 20 + len);
    frame_pseudo(f, IP_TCP, 20 + len, 16);
    net_csum_finish(f, n, 34, 16);
    return n;
}

static inline size_t frame_udp(u8 *f, const u8 dst[4], u16 sport, u16 dport, const void *data,
                               size_t len)
{
    u8 *u = f + 34;
    net_put16(u, sport);
    net_put16(u + 2, dport);
    net_put16(u + 4, (u16)(8 + len));
    net_put16(u + 6, 0);
    memcpy(u + 8, data, len);
    size_t n = frame_ip(f, IP_UDP, dst, 8 + len);
    frame_pseudo(f, IP_UDP, 8 + len, 6);
    net_csum_finish(f, n, 34, 6);
    return n;
}

static inline size_t frame_arp_request(u8 *f, const u8 who[4])
{
    static const u8 head[8] = {0, 1, 8, 0, 6, 4, 0, 1};
    frame_eth(f, ETH_ARP);
    memset(f, 0xff, 6);
    memcpy(f + 14, head, 8);
    memcpy(f + 22, guest_mac, 6);
    memcpy(f + 28, guest_ip, 4);
    memset(f + 32, 0, 6);
    memcpy(f + 38, who, 4);
    return 42;
}

/* Are all checksums of an IPv4 or IPv6 packet with TCP or UDP right? */
static inline bool sums_right(u8 *f, size_t len)
{
    struct net_packet p;
    if (!net_packet_parse(f, len, &p))
        return false;
    if (!p.v6 && net_csum_add(0, f + 14, 20) != 0xffff)
        return false;
    u16 sum = net_csum_pseudo(f + 14, p.proto, p.l4_len);
    return net_csum_add(sum, p.l4, p.l4_len) == 0xffff;
}

#endif
