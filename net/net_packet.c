#include "net/net_packet.h"

#include "net/net.h"

static bool parse_l4(struct net_packet *p)
{
    static const u8 least[256] = {[IP_ICMP] = 8, [IP_TCP] = 20, [IP_UDP] = 8, [IP_ICMPV6] = 4};
    if (!least[p->proto] || p->l4_len < least[p->proto])
        return false;
    if (p->proto == IP_TCP || p->proto == IP_UDP) {
        p->sport = net_get16(p->l4);
        p->dport = net_get16(p->l4 + 2);
    }
    if (p->proto == IP_TCP)
        p->tcp_flags = p->l4[13];
    return true;
}

static bool parse_ipv4(u8 *ip, size_t len, struct net_packet *p)
{
    if (len < 20 || ip[0] != 0x45) /* version 4, no options */
        return false;
    unsigned total = net_get16(ip + 2);
    if (total < 20 || total > len || net_get16(ip + 6) & 0x3fff) /* MF, or an offset */
        return false;
    p->proto = ip[9];
    p->src = ip + 12;
    p->dst = ip + 16;
    p->l4 = ip + 20;
    p->l4_len = total - 20;
    return parse_l4(p);
}

static bool parse_ipv6(u8 *ip, size_t len, struct net_packet *p)
{
    if (len < 40 || ip[0] >> 4 != 6)
        return false;
    unsigned payload = net_get16(ip + 4);
    if (payload > len - 40)
        return false;
    p->v6 = true;
    p->proto = ip[6];
    p->src = ip + 8;
    p->dst = ip + 24;
    p->l4 = ip + 40;
    p->l4_len = payload;
    return parse_l4(p);
}

bool net_packet_parse(u8 *frame, size_t len, struct net_packet *p)
{
    *p = (struct net_packet){0};
    if (len < NET_ETH_HLEN)
        return false;
    p->type = net_get16(frame + 12);
    switch (p->type) {
    case ETH_ARP:
        return true;
    case ETH_IPV4:
        return parse_ipv4(frame + NET_ETH_HLEN, len - NET_ETH_HLEN, p);
    case ETH_IPV6:
        return parse_ipv6(frame + NET_ETH_HLEN, len - NET_ETH_HLEN, p);
    default:
        return false;
    }
}
