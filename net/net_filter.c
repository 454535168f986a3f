#include "net/net_filter.h"

#include <ctype.h>
#include <string.h>

#include "net/net_csum.h"
#include "net/net_packet.h"
#include "net/net_user.h"

#define DNS_PORT   53
#define DNS_HLEN   12u
#define DNS_A      1
#define DNS_AAAA   28
#define DNS_EXTRA  64u /* bytes of EDNS behind a question that is let through */
#define DNS_REFUSE 5

static const u8 gateway4[4] = NET_USER_GATEWAY;
static const u8 dns4[4] = NET_USER_DNS;
static const u8 gateway6[16] = NET_USER_GATEWAY6;
static const u8 gateway6_link[16] = NET_USER_GATEWAY6_LINK;
static const u8 dns6[16] = NET_USER_DNS6;

void net_filter_init(struct net_filter *f, const struct net_config *c)
{
    *f = (struct net_filter){.nallow = c->nallow, .nforward = c->nforward};
    memcpy(f->allow, c->allow, sizeof(f->allow));
    memcpy(f->forward, c->forward, sizeof(f->forward));
}

static bool is_addr(const u8 *a, const struct net_packet *p, const u8 *v4, const u8 *v6)
{
    return !memcmp(a, p->v6 ? v6 : v4, p->v6 ? 16 : 4);
}

static unsigned addr_len(bool v6)
{
    return v6 ? 16 : 4;
}

static bool is_dns(const struct net_packet *p, const u8 *addr, u16 port)
{
    return p->proto == IP_UDP && port == DNS_PORT && is_addr(addr, p, dns4, dns6);
}

/* --- the list --- */

static bool allowed(const struct net_filter *f, const struct net_packet *p)
{
    /* --allow localhost:PORT means the host by either address. */
    bool host6 = p->v6 && !memcmp(p->dst, gateway6, 16);
    const u8 *dst = host6 ? gateway4 : p->dst;
    bool v6 = p->v6 && !host6;
    for (unsigned i = 0; i < f->nallow; i++) {
        const struct net_allow *a = &f->allow[i];
        if (!a->host[0] && a->v6 == v6 && a->port == p->dport &&
            !memcmp(a->addr, dst, addr_len(v6)))
            return true;
    }
    unsigned n = (unsigned)min_u64(f->nlearned, NET_FILTER_LEARNED);
    for (unsigned i = 0; i < n; i++) {
        const struct net_learned *l = &f->learned[i];
        if (l->v6 == p->v6 && f->allow[l->allow].port == p->dport &&
            !memcmp(l->addr, p->dst, addr_len(p->v6)))
            return true;
    }
    return false;
}

/* Addresses that would mean the host, or this network, and that no name may be used for. */
static bool is_special(const u8 *addr, bool v6)
{
    static const u8 network[4] = NET_USER_NETWORK, network6[16] = NET_USER_PREFIX6;
    static const u8 none6[15];
    if (v6)
        return !memcmp(addr, none6, 12) || !memcmp(addr, network6, 8) || addr[0] >= 0xfe ||
               (!memcmp(addr, none6, 10) && addr[10] == 0xff);
    return addr[0] == 0 || addr[0] == 127 || addr[0] >= 224 || !memcmp(addr, network, 3);
}

static void learn_addr(struct net_filter *f, const char *name, const u8 *addr, bool v6)
{
    if (is_special(addr, v6))
        return;
    for (unsigned i = 0; i < f->nallow; i++) {
        if (strcmp(f->allow[i].host, name) != 0)
            continue;
        bool known = false;
        unsigned n = (unsigned)min_u64(f->nlearned, NET_FILTER_LEARNED);
        for (unsigned k = 0; k < n && !known; k++)
            known = f->learned[k].allow == i && f->learned[k].v6 == v6 &&
                    !memcmp(f->learned[k].addr, addr, addr_len(v6));
        if (known)
            continue;
        struct net_learned *l = &f->learned[f->nlearned++ % NET_FILTER_LEARNED];
        *l = (struct net_learned){.v6 = v6, .allow = (u8)i};
        memcpy(l->addr, addr, addr_len(v6));
    }
}

/* --- the name server (RFC 1035, 4.1) --- */

/* Reads the name of a question at msg[at], without compression, lower case. Returns the offset
 * behind it, or 0. */
static unsigned question_name(const u8 *msg, unsigned len, unsigned at, char out[NET_HOST_MAX])
{
    unsigned n = 0;
    while (at < len && msg[at]) {
        unsigned label = msg[at++];
        if (label > 63 || label > len - at || n + label + 1 >= NET_HOST_MAX)
            return 0;
        if (n)
            out[n++] = '.';
        for (unsigned i = 0; i < label; i++)
            out[n++] = (char)tolower(msg[at++]);
    }
    out[n] = 0;
    return at < len && n ? at + 1 : 0;
}

/* The offset behind a name that may be compressed, or 0. */
static unsigned skip_name(const u8 *msg, unsigned len, unsigned at)
{
    while (at < len) {
        if (!msg[at])
            return at + 1;
        if (msg[at] >= 0xc0)
            return at + 2 <= len ? at + 2 : 0;
        at += msg[at] + 1u;
    }
    return 0;
}

static bool name_on_list(const struct net_filter *f, const char *name)
{
    for (unsigned i = 0; i < f->nallow; i++)
        if (f->allow[i].host[0] && !strcmp(f->allow[i].host, name))
            return true;
    return false;
}

/* One question, for the address of a name on the list. Returns the offset behind it, or 0. */
static unsigned asks_for_listed(const struct net_filter *f, const u8 *msg, unsigned len,
                                char name[NET_HOST_MAX])
{
    if (len < DNS_HLEN || net_get16(msg + 4) != 1)
        return 0;
    unsigned at = question_name(msg, len, DNS_HLEN, name);
    if (!at || len - at < 4 || strlen(name) != at - DNS_HLEN - 2)
        return 0; /* a zero inside a label */
    u16 type = net_get16(msg + at), class = net_get16(msg + at + 2);
    if ((type != DNS_A && type != DNS_AAAA) || class != 1)
        return 0;
    return name_on_list(f, name) ? at + 4 : 0;
}

static bool may_ask(const struct net_filter *f, const struct net_packet *p)
{
    char name[NET_HOST_MAX];
    const u8 *msg = p->l4 + 8;
    unsigned len = p->l4_len - 8;
    unsigned end = asks_for_listed(f, msg, len, name);
    /* A plain query (QR and the opcode are 0), with nothing in it but the question and EDNS. */
    return end && !(msg[2] & 0xf8) && !net_get16(msg + 6) && !net_get16(msg + 8) &&
           net_get16(msg + 10) <= 1 && len - end <= DNS_EXTRA;
}

static void learn_answer(struct net_filter *f, const struct net_packet *p)
{
    char name[NET_HOST_MAX];
    const u8 *msg = p->l4 + 8;
    unsigned len = p->l4_len - 8;
    unsigned at = asks_for_listed(f, msg, len, name);
    if (!at || !(msg[2] & 0x80))
        return;
    for (unsigned n = net_get16(msg + 6); n; n--) {
        at = skip_name(msg, len, at);
        if (!at || at > len || len - at < 10)
            return;
        u16 type = net_get16(msg + at), size = net_get16(msg + at + 8);
        at += 10;
        if (size > len - at)
            return;
        if ((type == DNS_A && size == 4) || (type == DNS_AAAA && size == 16))
            learn_addr(f, name, msg + at, type == DNS_AAAA);
        at += size;
    }
}

/* --- UDP through forwarded ports --- */

static bool is_forwarded(const struct net_filter *f, u16 guest)
{
    for (unsigned i = 0; i < f->nforward; i++)
        if (f->forward[i].udp && f->forward[i].guest == guest)
            return true;
    return false;
}

static bool flow_known(const struct net_filter *f, const struct net_packet *p, const u8 *addr,
                       u16 port, u16 guest)
{
    unsigned n = (unsigned)min_u64(f->nflows, NET_FILTER_FLOWS);
    for (unsigned i = 0; i < n; i++) {
        const struct net_flow *w = &f->flow[i];
        if (w->port == port && w->guest == guest && w->v6 == p->v6 &&
            !memcmp(w->addr, addr, addr_len(p->v6)))
            return true;
    }
    return false;
}

static void learn_flow(struct net_filter *f, const struct net_packet *p)
{
    if (!is_forwarded(f, p->dport) || flow_known(f, p, p->src, p->sport, p->dport))
        return;
    struct net_flow *w = &f->flow[f->nflows++ % NET_FILTER_FLOWS];
    *w = (struct net_flow){.v6 = p->v6, .port = p->sport, .guest = p->dport};
    memcpy(w->addr, p->src, addr_len(p->v6));
}

/* --- frames --- */

static bool is_dhcp(const struct net_packet *p)
{
    static const u8 everyone[4] = {255, 255, 255, 255};
    static const u8 servers6[16] = {0xff, 0x02, [13] = 1, [15] = 2}; /* ff02::1:2 */
    if (p->v6)
        return p->dport == 547 && !memcmp(p->dst, servers6, 16);
    return p->dport == 67 && (!memcmp(p->dst, everyone, 4) || !memcmp(p->dst, gateway4, 4));
}

static bool udp_out(const struct net_filter *f, const struct net_packet *p)
{
    if (is_dns(p, p->dst, p->dport)) /* nothing else may say yes to these */
        return may_ask(f, p);
    return is_dhcp(p) || allowed(f, p) || flow_known(f, p, p->dst, p->dport, p->sport);
}

/* Without a connection that has been opened, libslirp answers all but a SYN with a reset. */
static bool tcp_out(const struct net_filter *f, const struct net_packet *p)
{
    return !(p->tcp_flags & TCP_SYN) || p->tcp_flags & TCP_ACK || allowed(f, p);
}

static bool icmp6_out(const struct net_packet *p)
{
    u8 type = p->l4[0];
    bool discovery = type >= 133 && type <= 136;
    return discovery || !memcmp(p->dst, gateway6, 16) || !memcmp(p->dst, gateway6_link, 16);
}

bool net_filter_out(struct net_filter *f, u8 *frame, size_t len)
{
    struct net_packet p;
    if (!net_packet_parse(frame, len, &p))
        return false;
    if (p.type == ETH_ARP)
        return true;
    switch (p.proto) {
    case IP_TCP:
        return tcp_out(f, &p);
    case IP_UDP:
        return udp_out(f, &p);
    case IP_ICMP:
        return !p.v6 && !memcmp(p.dst, gateway4, 4);
    case IP_ICMPV6:
        return p.v6 && icmp6_out(&p);
    default:
        return false;
    }
}

void net_filter_in(struct net_filter *f, u8 *frame, size_t len)
{
    struct net_packet p;
    if (!net_packet_parse(frame, len, &p) || p.proto != IP_UDP)
        return;
    if (is_dns(&p, p.src, p.sport))
        learn_answer(f, &p);
    else
        learn_flow(f, &p);
}

/* --- refusals --- */

static void swap(u8 *a, u8 *b, unsigned n)
{
    u8 t[16];
    memcpy(t, a, n);
    memcpy(a, b, n);
    memcpy(b, t, n);
}

/* Gives the packet its new length, and its checksums. */
static size_t finish_answer(u8 *frame, const struct net_packet *p, unsigned l4_len)
{
    u8 *ip = frame + NET_ETH_HLEN, *sum = p->l4 + (p->proto == IP_TCP ? 16 : 6);
    unsigned head = (unsigned)(p->l4 - ip);
    if (p->v6) {
        net_put16(ip + 4, (u16)l4_len);
    } else {
        net_put16(ip + 2, (u16)(head + l4_len));
        net_put16(ip + 10, 0);
        u16 s = (u16)~net_csum_add(0, ip, head);
        memcpy(ip + 10, &s, 2);
    }
    u16 pseudo = net_csum_pseudo(ip, p->proto, l4_len);
    memcpy(sum, &pseudo, 2);
    net_csum_finish(p->l4, l4_len, 0, (unsigned)(sum - p->l4));
    return NET_ETH_HLEN + head + l4_len;
}

/* RFC 9293, 3.10.7.1: a reset that acknowledges the SYN. */
static size_t refuse_tcp(u8 *frame, const struct net_packet *p)
{
    u8 *t = p->l4;
    u32 seq = ((u32)net_get16(t + 4) << 16 | net_get16(t + 6)) + 1;
    memset(t + 4, 0, 4);
    net_put16(t + 8, seq >> 16);
    net_put16(t + 10, (u16)seq);
    t[12] = 5 << 4;
    t[13] = TCP_RST | TCP_ACK;
    memset(t + 14, 0, 6);
    return finish_answer(frame, p, 20);
}

static size_t refuse_dns(u8 *frame, const struct net_packet *p)
{
    u8 *msg = p->l4 + 8;
    char name[NET_HOST_MAX];
    unsigned len = p->l4_len - 8;
    if (len < DNS_HLEN || msg[2] & 0x80 || net_get16(msg + 4) != 1)
        return 0;
    unsigned end = question_name(msg, len, DNS_HLEN, name);
    if (!end || len - end < 4)
        return 0;
    msg[2] |= 0x80;
    msg[3] = 0x80 | DNS_REFUSE; /* recursion is available */
    memset(msg + 6, 0, 6);
    end += 4 + 8;
    net_put16(p->l4 + 4, (u16)end);
    return finish_answer(frame, p, end);
}

size_t net_filter_refuse(u8 *frame, size_t len)
{
    struct net_packet p;
    if (!net_packet_parse(frame, len, &p) || p.type == ETH_ARP)
        return 0;
    bool dns = is_dns(&p, p.dst, p.dport);
    if (!dns && (p.proto != IP_TCP || !(p.tcp_flags & TCP_SYN)))
        return 0;
    swap(frame, frame + 6, 6);
    swap(p.src, p.dst, addr_len(p.v6));
    swap(p.l4, p.l4 + 2, 2); /* ports */
    return dns ? refuse_dns(frame, &p) : refuse_tcp(frame, &p);
}
