#include "net/net_merge.h"

#include <string.h>

#include "net/net_csum.h"
#include "net/net_packet.h"

#define IP_AT   NET_ETH_HLEN
#define TCP_AT  (IP_AT + 20u)
#define DATA_AT (TCP_AT + 20u)
#define TCP_PSH 0x08

static u32 get32(const u8 *p)
{
    return (u32)net_get16(p) << 16 | net_get16(p + 2);
}

/* TCP over IPv4 without options, with data, and with no flags but ACK and PSH. */
bool net_merge_can_start(const u8 *f, size_t len)
{
    return len > DATA_AT && net_get16(f + 12) == ETH_IPV4 && f[IP_AT] == 0x45 &&
           f[IP_AT + 9] == IP_TCP && !(net_get16(f + IP_AT + 6) & 0x3fff) &&
           net_get16(f + IP_AT + 2) == len - IP_AT && f[TCP_AT + 12] == 5 << 4 &&
           (f[TCP_AT + 13] & ~TCP_PSH) == TCP_ACK;
}

static void start(struct net_merge *m, const u8 *f, size_t len)
{
    memcpy(m->frame, f, len);
    m->len = len;
    m->n = 1;
    m->size = (u16)(len - DATA_AT);
    m->next_seq = get32(f + TCP_AT + 4) + m->size;
    m->closed = f[TCP_AT + 13] & TCP_PSH;
}

/* The same Ethernet header, addresses, ports, acknowledgement and window; and the next bytes. */
static bool follows(const struct net_merge *m, const u8 *f, size_t len)
{
    const u8 *g = m->frame;
    size_t data = len - DATA_AT;
    return !m->closed && data <= m->size && m->len + data <= 65535 + IP_AT &&
           get32(f + TCP_AT + 4) == m->next_seq && !memcmp(f, g, 14) &&
           f[IP_AT + 1] == g[IP_AT + 1] && !memcmp(f + IP_AT + 12, g + IP_AT + 12, 12) &&
           !memcmp(f + TCP_AT + 8, g + TCP_AT + 8, 4) &&
           !memcmp(f + TCP_AT + 14, g + TCP_AT + 14, 2);
}

bool net_merge_add(struct net_merge *m, const u8 *f, size_t len)
{
    if (!net_merge_can_start(f, len))
        return false;
    if (!m->len) {
        start(m, f, len);
        return true;
    }
    if (!follows(m, f, len))
        return false;
    size_t data = len - DATA_AT;
    memcpy(m->frame + m->len, f + DATA_AT, data);
    m->len += data;
    m->n++;
    m->next_seq += (u32)data;
    m->frame[TCP_AT + 13] |= f[TCP_AT + 13];
    m->closed = data < m->size || f[TCP_AT + 13] & TCP_PSH;
    return true;
}

void net_merge_flush(struct net_merge *m, struct net *n)
{
    struct net_offload o = {.flags = NET_CSUM_VALID};
    size_t len = m->len;
    u8 *ip = m->frame + IP_AT;
    if (!len)
        return;
    m->len = 0;
    if (m->n > 1) {
        o = (struct net_offload){.flags = NET_NEEDS_CSUM,
                                 .gso = NET_GSO_TCPV4,
                                 .hdr_len = DATA_AT,
                                 .gso_size = m->size,
                                 .csum_start = TCP_AT,
                                 .csum_offset = 16};
        net_put16(ip + 2, (u16)(len - IP_AT));
        net_put16(ip + 10, 0);
        u16 sum = (u16)~net_csum_add(0, ip, 20);
        memcpy(ip + 10, &sum, 2);
        sum = net_csum_pseudo(ip, IP_TCP, (u32)(len - TCP_AT));
        memcpy(m->frame + TCP_AT + 16, &sum, 2);
    }
    net_receive(n, m->frame, len, &o);
}
