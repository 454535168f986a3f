#include "net/net_gso.h"

#include <string.h>

#include "net/net_csum.h"

#include "net/net_packet.h"

#define ETH_VLAN 0x8100
#define TCP_PSH  0x08
#define TCP_CWR  0x80
#define TCP_HLEN 20u

static u32 get32(const u8 *p)
{
    return (u32)net_get16(p) << 16 | net_get16(p + 2);
}

static void put32(u8 *p, u32 v)
{
    net_put16(p, v >> 16);
    net_put16(p + 2, (u16)v);
}

/* The IP header's length, or 0 if it is not one of TCP over this version. */
static unsigned ip_header(const u8 *ip, size_t len, bool v6)
{
    if (v6)
        return len >= 40 && ip[0] >> 4 == 6 && ip[6] == IP_TCP ? 40 : 0;
    if (len < 20 || ip[0] >> 4 != 4 || ip[9] != IP_TCP)
        return 0;
    unsigned n = (ip[0] & 15) * 4u;
    return n >= 20 && n <= len ? n : 0;
}

bool net_gso_parse(const u8 *frame, size_t len, const struct net_offload *o, struct net_gso *g)
{
    g->ip = NET_ETH_HLEN;
    if (len < g->ip || !o->gso_size)
        return false;
    u16 type = net_get16(frame + 12);
    if (type == ETH_VLAN && len >= 18) {
        type = net_get16(frame + 16);
        g->ip = 18;
    }
    g->v6 = o->gso == NET_GSO_TCPV6;
    if (type != (g->v6 ? ETH_IPV6 : ETH_IPV4))
        return false;
    unsigned n = ip_header(frame + g->ip, len - g->ip, g->v6);
    g->tcp = g->ip + n;
    if (!n || len - g->tcp < TCP_HLEN)
        return false;
    unsigned hlen = (frame[g->tcp + 12] >> 4) * 4u;
    g->payload = g->tcp + hlen;
    /* A segment has to be a frame that everybody takes. */
    return hlen >= TCP_HLEN && g->payload <= len && g->payload - g->ip + o->gso_size <= NET_MTU_MAX;
}

/* Makes the IP header right for a packet of `len` bytes, the i-th of a row. */
static void fix_ip(u8 *ip, size_t len, bool v6, unsigned i)
{
    if (v6) {
        net_put16(ip + 4, (u16)(len - 40));
        return;
    }
    net_put16(ip + 2, (u16)len);
    net_put16(ip + 4, (u16)(net_get16(ip + 4) + i));
    net_put16(ip + 10, 0);
    u16 sum = (u16)~net_csum_add(0, ip, (ip[0] & 15) * 4ul);
    memcpy(ip + 10, &sum, 2);
}

static void fix_tcp(u8 *ip, u8 *tcp, size_t len, u32 seq, u8 flags_off)
{
    put32(tcp + 4, seq);
    tcp[13] &= (u8)~flags_off;
    u16 sum = net_csum_pseudo(ip, IP_TCP, (u32)len);
    memcpy(tcp + 16, &sum, 2);
    net_csum_finish(tcp, len, 0, 16);
}

bool net_gso_cut(const u8 *frame, size_t len, const struct net_offload *o, u8 *buf,
                 bool (*emit)(void *arg, u8 *segment, size_t len), void *arg)
{
    struct net_gso g;
    if (!net_gso_parse(frame, len, o, &g))
        return false;
    u32 seq = get32(frame + g.tcp + 4);
    size_t at = g.payload;
    for (unsigned i = 0; at < len || !i; i++) {
        size_t n = min_u64(o->gso_size, len - at);
        memcpy(buf, frame, g.payload);
        memcpy(buf + g.payload, frame + at, n);
        at += n;
        size_t total = g.payload + n;
        /* FIN and PSH go with the last byte, CWR with the first. */
        u8 off = (u8)((at < len ? TCP_FIN | TCP_PSH : 0) | (i ? TCP_CWR : 0));
        fix_ip(buf + g.ip, total - g.ip, g.v6, i);
        fix_tcp(buf + g.ip, buf + g.tcp, total - g.tcp, seq, off);
        seq += (u32)n;
        if (!emit(arg, buf, total))
            break;
    }
    return true;
}
